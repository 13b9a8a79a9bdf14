"""For programs that call a fabric. Grants are exchanged and renewed behind the scenes; no program handles one.

    grants = GrantSource(["http://127.0.0.1:8080"], chain, key, "assistant")

    httpx.Client(auth=GrantAuth(grants))
    requests.post(url, auth=RequestsAuth(grants))
    openai.OpenAI(base_url="http://127.0.0.1:8080/v1", api_key=grants.token)
    openai.AsyncOpenAI(base_url="http://127.0.0.1:8080/v1", api_key=grants.token_async)

Programs that hold only a base URL and a static key go through `isochrone connect`.
"""

from isochrone.serve.client import GrantAuth, GrantSource, RequestsAuth

__all__ = ["GrantAuth", "GrantSource", "RequestsAuth"]
