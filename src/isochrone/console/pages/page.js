"use strict";
// Asks the authenticator for what the page shows, and sends the answer back to the page's own address.
(() => {
  const task = JSON.parse(document.getElementById("task").textContent);
  const go = document.getElementById("go");
  const no = document.getElementById("no");
  const said = document.getElementById("said");

  const bytes = (text) =>
    Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (char) => char.charCodeAt(0));
  const text = (buffer) =>
    btoa(String.fromCharCode(...new Uint8Array(buffer)))
      .replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

  const say = (what, kind) => {
    said.textContent = what;
    said.className = kind;
  };

  const send = async (body) => {
    const answer = await fetch(location.pathname, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
      credentials: "omit",
    });
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.title || "the hub refused it");
    return told;
  };

  const sign = async () => {
    const chosen = document.querySelector("input[name=passkey]:checked");
    const passkey = task.passkeys[chosen ? Number(chosen.value) : 0];
    const made = await navigator.credentials.get({
      publicKey: {
        challenge: bytes(passkey.challenge),
        rpId: task.rp_id,
        allowCredentials: [{ type: "public-key", id: bytes(passkey.credential_id) }],
        userVerification: "required",
      },
    });
    const { clientDataJSON, authenticatorData, signature } = made.response;
    await send({
      key: passkey.key,
      assertion: {
        id: text(made.rawId),
        response: {
          clientDataJSON: text(clientDataJSON),
          authenticatorData: text(authenticatorData),
          signature: text(signature),
        },
      },
    });
    say("Signed. You can close this page.", "good");
  };

  const register = async () => {
    const made = await navigator.credentials.create({
      publicKey: {
        challenge: bytes(task.challenge),
        rp: { id: task.rp_id, name: "Isochrone " + task.fabric },
        user: { id: bytes(task.user_id), name: task.person, displayName: task.name },
        pubKeyCredParams: [{ type: "public-key", alg: -7 }, { type: "public-key", alg: -8 }],
        authenticatorSelection: { residentKey: "preferred", userVerification: "required" },
        excludeCredentials: task.held.map((id) => ({ type: "public-key", id: bytes(id) })),
        attestation: "none",
      },
    });
    const { clientDataJSON, attestationObject } = made.response;
    const told = await send({
      credential: {
        id: text(made.rawId),
        rawId: text(made.rawId),
        type: "public-key",
        response: { clientDataJSON: text(clientDataJSON), attestationObject: text(attestationObject) },
      },
    });
    say("Made. Read this to whoever invited you: " + told.code, "good");
  };

  const once = (action) => async () => {
    go.disabled = no.disabled = true;
    say("", "");
    try {
      await action();
    } catch (error) {
      say(error.name === "NotAllowedError" ? "Nothing was signed: the passkey was not used." : error.message, "bad");
      go.disabled = no.disabled = false;
    }
  };

  go.addEventListener("click", once(task.do === "sign" ? sign : register));
  no.addEventListener("click", once(async () => {
    await send({ declined: true });
    say("Nothing was signed. You can close this page.", "good");
  }));
  if (!window.PublicKeyCredential) {
    go.disabled = true;
    say("This browser knows no passkeys here: open the link in another one.", "bad");
  }
})();
