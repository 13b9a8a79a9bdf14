"""The embedded fabric: one process that starts everything else as its children on this machine."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isochrone.authority.sites import admit_subject, admitted
from isochrone.errors import InputError, ProcessError
from isochrone.model.fabric import Fabric
from isochrone.model.site import Site, server_names
from isochrone.model.workload import Process
from isochrone.serve import binaries
from isochrone.serve.act_book import ActBook
from isochrone.serve.admission import Admission, new_join_key
from isochrone.serve.child import ChildEvent, ChildSpec
from isochrone.serve.desired import read_desired, validate_desired
from isochrone.serve.files import atomic_write, lock, private_dir
from isochrone.serve.home import HubHome, SiteHome
from isochrone.serve.hub_client import HubClient
from isochrone.serve.joining import join, renew
from isochrone.serve.keyring import Keyring
from isochrone.serve.pki import SITE_LIFE_S
from isochrone.serve.process import Supervisor, free_port
from isochrone.serve.signing import act_signer

__all__ = ["Embedded"]


@dataclass(slots=True)
class Embedded:
    """A whole fabric on this machine.

    Args:
        path: the fabric document.
        state: state directory; survives restarts.
        operator, operator_name: the first operator, enrolled when nobody is yet.
        say: told of progress, one line at a time.
        sites_timeout_s: how long the hub may take to answer, and sites to forward; one that does not is an error.
        models_timeout_s: how long model servers may take to answer after that; one that does not by then is an alarm,
            and the rest of the fabric serves.
        certificate_life_s: of the sites' certificates.
    """

    path: Path
    state: Path
    operator: str = "human:operator"
    operator_name: str = ""
    say: Callable[[str], None] = print
    sites_timeout_s: float = 90.0
    models_timeout_s: float = 90.0
    certificate_life_s: int = SITE_LIFE_S

    async def run(self, on_ready: Callable[[dict[str, Any], Supervisor], Any] | None = None) -> Any:
        """Start everything, wait until every site forwards, then run `on_ready` (or until cancelled).

        Raises:
            DocumentError: the fabric document or its policies are wrong; nothing was started.
            ProcessError: a part did not start.
        """
        desired = read_desired(self.path)
        fabric, _ = validate_desired(*desired, file=self.path.name)
        for engine in (binaries.nats_server, binaries.envoy):
            engine()  # asked for now: a node that misses its Envoy could only say so in its log
        private_dir(self.state)
        with lock(self.state / "lock"):
            async with Supervisor(self.state / "logs", self._on_event) as supervisor:
                await self._start(supervisor, fabric)
                status = await self._wait_forwarding(fabric, supervisor)
                if on_ready is not None:
                    return await on_ready(status, supervisor)
                self.say(f"fabric {fabric.name} is up; state in {self.state}")
                await asyncio.Event().wait()
        return None

    async def _start(self, supervisor: Supervisor, fabric: Fabric) -> None:
        home = HubHome.open(self.state, fabric.name)
        self._enrol_operator(home)
        home.save_addresses(f"127.0.0.1:{self._port('bus')}", f"127.0.0.1:{self._port('sites')}")
        for site, noun in sorted(fabric.sites.items()):
            self._enrol_site(home, site, noun)
        server = home.bus_server()
        self.say("starting the bus (NATS with JetStream)")
        await supervisor.start(server.spec())
        self.say("starting the hub")
        here = [sys.executable, "-m", "isochrone.cli.main"]
        api = f"127.0.0.1:{self._port('hub')}"
        command = [
            *here,
            "hub",
            str(self.path.absolute()),
            "--state",
            str(self.state),
            "--bus",
            server.url,
            "--api",
            api,
            "--certificate-life-s",
            str(self.certificate_life_s),
        ]
        hub = ChildSpec("hub", command, ready=self._hub_answers, ready_timeout_s=self.sites_timeout_s)
        self.say(f"starting {len(fabric.sites)} sites: {', '.join(fabric.sites)}")
        nodes = [
            ChildSpec(f"node-{site}", [*here, "node", "--home", str(self.state / "sites" / site)], stop_grace_s=8)
            for site in fabric.sites
        ]
        # At the same time: a node waits for the hub's first word, and most of each one's start is its own.
        await asyncio.gather(*(supervisor.start(spec) for spec in (hub, *nodes)))

    def _enrol_operator(self, home: HubHome) -> None:
        if (home.root / "identities.json").exists():
            return
        ring = Keyring(self.state)
        holder = ring.create(self.operator, self.operator_name or self.operator.partition(":")[2])
        home.save_people({"anchor": [holder.identity(is_operator=True).to_json()], "acts": []})
        self.say(f"enrolled {self.operator} as the first operator")

    def _enrol_site(self, home: HubHome, site: str, noun: Site) -> None:
        """As on machines apart, without a network in between: a site that is there already gets a new certificate."""
        admission, directory = Admission(home, self.certificate_life_s), SiteHome(self.state / "sites" / site)
        names, book = server_names(noun), ActBook(home)
        believed, _ = admitted(book.sites, home.fabric, home.roster())
        if site in believed and (directory.root / "site.json").exists():
            renew(directory, lambda request: admission.renew(request, lambda _: names))
            return
        key = new_join_key()
        act = act_signer(Keyring(self.state))(book.registry, "admit", admit_subject(site, key.public))
        if not act:
            hint = f"an operator admits it: `isochrone enrol {self.path.name} --site {site}`, then `isochrone join`"
            raise InputError(f"no operator's key is here to admit {site}", code="up.unsigned", hint=hint)
        book.enter(act, book.in_force)
        join(directory, admission.invite(site, key=key), lambda request: admission.admit(request, lambda _: names))

    async def _hub_answers(self) -> bool:
        return bool((await HubClient(self.state).status())["desired"])

    def _port(self, name: str) -> int:
        """A free loopback port, the same at every start."""
        path = self.state / "ports.json"
        known: dict[str, int] = json.loads(path.read_bytes()) if path.exists() else {}
        if name not in known:
            known[name] = free_port()
            atomic_write(path, json.dumps(known).encode())
        return known[name]

    def _on_event(self, name: str, event: ChildEvent) -> None:
        if event.kind in ("died", "gave_up", "restarted"):
            self.say(f"{name} {event.kind} {event.signal or ''} {event.detail}".rstrip())

    async def _wait_forwarding(self, fabric: Fabric, supervisor: Supervisor) -> dict[str, Any]:
        """Wait until every site has a plan in force and its model servers answer."""
        client, told, now_s = HubClient(self.state), "", asyncio.get_running_loop().time
        started_s = forwarding_s = now_s()
        while True:
            status = await client.status()
            sites, models = _sites_missing(fabric, status), _models_missing(fabric, status)
            waiting = sites or models
            if not waiting:
                return status
            if waiting[0] != told:
                told = waiting[0]
                self.say(f"waiting: {told}")
            if sites:
                forwarding_s = now_s()
                if forwarding_s > started_s + self.sites_timeout_s:
                    raise self._not_ready(sites, status, supervisor)
            elif now_s() > forwarding_s + self.models_timeout_s:
                for line in (*(f"up without it: {each}" for each in models), *_alarms(status)):
                    self.say(line)
                return status
            await asyncio.sleep(0.2)

    def _not_ready(self, sites: list[str], status: dict[str, Any], supervisor: Supervisor) -> ProcessError:
        said = [line for child in supervisor.children.values() for line in child.log.last_lines(3)][-10:]
        return ProcessError(
            f"the fabric is not ready after {self.sites_timeout_s:g} s: {'; '.join(sites)}",
            code="up.not-ready",
            hint="\n".join([*_alarms(status), *said, f"logs are in {self.state / 'logs'} and {self.state / 'sites'}"]),
        )


def _alarms(status: dict[str, Any]) -> list[str]:
    """The newest that sites reported."""
    return [alarm for report in status["sites"].values() for alarm in report["alarms"]][-5:]


def _sites_missing(fabric: Fabric, status: dict[str, Any]) -> list[str]:
    """Sites that do not forward yet."""
    waiting = []
    for site in sorted(fabric.sites):
        report = status["sites"].get(site)
        if report is None:
            waiting.append(f"{site}: no report yet")
        elif report["desired"] != status["desired"] or not report["plan"]:
            waiting.append(f"{site}: its Envoy has no plan in force yet")
    return waiting


def _models_missing(fabric: Fabric, status: dict[str, Any]) -> list[str]:
    """Model servers that the plan places and that do not answer yet; `external` ones are not ours to start."""
    return [
        f"{site}: {workload} is not ready yet"
        for site, placed in sorted(status["placements"].items())
        for workload, count in placed.items()
        if workload in fabric.workloads
        and isinstance(fabric.workloads[workload].runtime, Process)
        and status["sites"].get(site, {"ready": {}})["ready"].get(workload, 0) < count
    ]
