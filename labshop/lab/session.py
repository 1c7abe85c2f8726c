"""A lesson's own shop: servers, ledger and API that nobody else can disturb.

The problem: a lesson kills servers and empties memories, and two learners may sit on one
machine. The idea: each session starts its own Redis processes and its own ledger, in a folder
of its own, in well under a second; they end with the kernel, however that ends. A Redis that
is named by LABSHOP_GATE_URL is used instead; such a session empties that database first.
"""

import asyncio
import inspect
import logging
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
from IPython.display import Code, display

from labshop.api.shop import Shop, build_shop, running
from labshop.errors import SetupError
from labshop.judge.books import Books
from labshop.judge.history import History
from labshop.lab.crowd import make_crowd
from labshop.lab.doors import sell_over_http
from labshop.lab.small_cluster import SmallCluster, start_cluster
from labshop.lab.trial import Arena, Trial, try_out
from labshop.lab.trial.run import MakeStrategy
from labshop.lab.trial.scenarios import FIRST_LOOK, SCENARIOS
from labshop.lab.verdict_chart import show_verdict
from labshop.locks import Node
from labshop.settings import Settings, read_settings
from labshop.shop.domain import Line
from labshop.shop.errors import Unavailable
from labshop.stack.faults.network import Network
from labshop.stack.leash import Leash
from labshop.stack.ports import LOOPBACK, free_port
from labshop.stack.shop_api import UNMETERED, ApiProcess
from labshop.stack.topology import Topology, specs_of

READY_S = 20.0
CROWD_S = 60.0
POLL_S = 0.005


class Lab:
    """What a lesson works with. Make one by `open_lab`."""

    def __init__(self, home: Path, settings: Settings, profile: str = "01_setnx") -> None:
        self.home = home
        self._profile = profile
        self._settings = settings
        self._undo = ExitStack()
        self._end = asyncio.Event()
        self._life: asyncio.Task[None] | None = None
        self._users = 0
        self._clients: list[Node] = []
        self._arena: Arena | None = None
        self._sold_before: dict[int, int] = {}
        self.topology: Topology | None = None
        self.network: Network
        self.shop: Shop

    @property
    def node(self) -> Node:
        """The primary: the Redis that holds stock and locks."""
        return self.shop.node

    @property
    def primary_port(self) -> int:
        """The primary's port on this machine."""
        return self.node.port

    async def start(self) -> None:
        """Start servers and shop; returns when the shop can sell."""
        settings, gate_url = self._settings, self._settings.gate_url
        if gate_url is None:
            self.topology = self._undo.enter_context(
                Topology(self.home, settings.redis_server, specs_of(self._profile))
            )
            nodes = self.topology.nodes
            ports = {name: node.port for name, node in nodes.items()}
            self.network = self._undo.enter_context(Network(ports))
            gate_url = self.topology["primary"].url
            locks = [name for name, node in nodes.items() if node.spec.role == "lock"]
            urls = ",".join(self._url(name, "shop") for name in locks)
            settings = settings.model_copy(update={"lock_urls": urls})
        self._gate_url, self._lock_urls = gate_url, settings.lock_node_urls()
        self.shop = build_shop(settings, gate_url=gate_url)
        await self.node.command("FLUSHDB")
        # Each cell is a task of its own, and a task group ends in the task that began it:
        # so the shop lives in one task, from here to `close`.
        self._life = asyncio.create_task(self._live())
        async with asyncio.timeout(READY_S):
            await self.shop.opened.wait()

    def lock_nodes(self, client: str, *, timeout_ms: int = 250) -> tuple[Node, ...]:
        """The five masters as one client sees them, each through a proxy of its own.

        Args:
            client: its name in `network`, where its ways can be broken.
            timeout_ms: how long one command may take.
        """
        assert self.topology is not None
        names = [it.spec.name for it in self.topology.nodes.values() if it.spec.role == "lock"]
        nodes = tuple(Node(self._url(name, client), timeout_ms=timeout_ms) for name in names)
        self._clients += nodes
        return nodes

    def _url(self, server: str, client: str) -> str:
        return f"redis://{LOOPBACK}:{self.network.port(server, client)}"

    async def close(self) -> None:
        """End the shop and its servers; without it they end with the kernel."""
        self._end.set()
        for node in self._clients:
            await node.close()
        try:
            if self._life is not None:
                await self._life
        finally:
            self._undo.close()

    def at_end(self, undo: Callable[[], object]) -> None:
        """Have something done when the lab ends, after its servers have gone."""
        self._undo.callback(undo)

    async def put_on_sale(self, product_id: int, units: int) -> None:
        """Give a product that much stock, in the ledger and at the gate; its books begin anew."""
        self._sold_before[product_id] = await self.shop.ledger.sold(product_id)
        await self.shop.ledger.adjust(product_id, units=units, actor="lesson")
        await self.shop.inventory.gate.rebuild()

    async def buyers(self, count: int) -> list[int]:
        """New users, by their ids."""
        numbers = range(self._users, self._users + count)
        self._users += count
        accounts = (self.shop.accounts.create(f"buyer-{number}", "!") for number in numbers)
        return [account.id for account in await asyncio.gather(*accounts)]

    async def books(self, product_id: int, *, stock: int, wanted: int) -> Books:
        """What ledger and gate say about a product after a sale of `stock` units."""
        left: dict[str, int | None] = {"ledger": None, "gate": None}
        sold = None
        with suppress(Unavailable):
            sold = await self.sold(product_id)
            left["ledger"] = (await self.shop.ledger.snapshot()).left[product_id]
            left["gate"] = await self.shop.inventory.unsold(product_id)
        return Books(stock=stock, wanted=wanted, sold=sold, left=left)

    @contextmanager
    def primary_killed(self) -> Iterator[None]:
        """The primary is gone by `kill -9` for the length of a body; then it starts again.

        Raises:
            SetupError: this lab uses a Redis that it did not start.
        """
        if self.topology is None:
            raise SetupError("This Redis is not the lab's own; unset LABSHOP_GATE_URL to kill one.")
        primary = self.topology["primary"]
        primary.kill()
        try:
            yield
        finally:
            primary.restart()

    async def sold(self, product_id: int) -> int:
        """Units of a product that were sold since it was put on sale."""
        return await self.shop.ledger.sold(product_id) - self._sold_before.get(product_id, 0)

    async def start_cluster(self) -> SmallCluster:
        """A Redis Cluster of three masters, beside this lab's servers; it ends with them."""
        small = await start_cluster(self.home / "cluster", self._settings.redis_server)
        self._undo.callback(small.leash.end)
        return small

    @contextmanager
    def serving(self) -> Iterator[ApiProcess]:
        """The API as a process of its own on this lab's stores, to be called and killed."""
        with Leash() as leash:
            api = ApiProcess(
                leash,
                self.home,
                gate_url=self._gate_url,
                host=LOOPBACK,
                port=free_port(),
                lock_urls=self._lock_urls,
                env=UNMETERED,
            )
            api.start()
            yield api

    async def until_sold(self, product_id: int, units: int) -> None:
        """Wait until the ledger has sold that many units of a product."""
        async with asyncio.timeout(READY_S):
            while await self.sold(product_id) < units:  # noqa: ASYNC110  # see below
                await asyncio.sleep(POLL_S)

    async def until_open(self) -> None:
        """Wait until gate and ledger can be reached again."""
        async with asyncio.timeout(READY_S):
            while not await self._is_open():  # noqa: ASYNC110  # an event of another process
                await asyncio.sleep(POLL_S)

    async def _is_open(self) -> bool:
        try:
            await self.shop.check()
        except Unavailable:
            return False
        return True

    async def try_out(
        self,
        strategy: MakeStrategy,
        *,
        scenarios: Sequence[str] = FIRST_LOOK,
        seed: int = 1,
        show: bool = True,
    ) -> Trial:
        """Let a strategy sell on servers of its own, until a scenario breaks it.

        Args:
            strategy: its class.
            scenarios: their names, in order; the first that does not end VALID is the last.
            seed: draws the crowds and the faults.
            show: print the verdicts, and draw the smallest failing history.

        Returns:
            The last trial, with its history and its verdict.
        """
        if self._arena is None:
            self._arena = self._undo.enter_context(Arena(self._settings.redis_server))
        for name in scenarios:
            scenario = SCENARIOS[name]
            trial = await try_out(strategy, scenario, arena=self._arena, seed=seed)
            if show:
                print(f"{name} ({scenario.story[:-1].lower()}): {trial.verdict.outcome}")
            if trial.verdict.outcome != "VALID":
                break
        if show:
            show_verdict(trial.verdict)
        return trial

    async def crowd(
        self,
        url: str,
        product_id: int,
        buyers: int,
        *,
        seed: int = 1,
        stage: str = "v1",
        progress: Callable[[int, int], object] | None = None,
    ) -> History:
        """Let so many new users press *buy* at once, over HTTP; returns what they were told.

        Each asks a `stage` until there is a definite answer, for `CROWD_S` seconds at most.
        `progress` is told how many have one, and of how many; a `Meter` shows it.
        """
        user_ids = await self.buyers(buyers)
        tokens = {user_id: self.shop.tokens.issue(user_id) for user_id in user_ids}
        crowd = make_crowd(user_ids, lambda _: (Line(product_id, 1),), seed=seed)
        patient = [replace(buyer, patience_s=CROWD_S) for buyer in crowd]
        return await sell_over_http(patient, [url], tokens, stage=stage, progress=progress)

    async def _live(self) -> None:
        async with running(self.shop):
            await self._end.wait()


async def open_lab(*, name: str, profile: str = "01_setnx", **overrides: Any) -> Lab:
    """Start a lesson's own servers and shop.

    Args:
        name: begins the name of the lab's folder.
        profile: which servers; see `labshop.stack.topology`.
        overrides: settings for this lab, by their names, such as ``lock_ttl_ms=500``.

    Raises:
        SetupError: no server can be started; the sentence says what to do.
    """
    # What the shop logs of the faults that a lesson makes would stand in its cells.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    folder = tempfile.TemporaryDirectory(prefix=f"labshop-{name}-", ignore_cleanup_errors=True)
    home = Path(folder.name)
    lab = Lab(home, read_settings(**{"home": home, **overrides}), profile)
    lab.at_end(folder.cleanup)
    try:
        await lab.start()
    except BaseException:
        await lab.close()
        raise
    return lab


def show_source(thing: Callable[..., object] | type) -> None:
    """Show the source of what has just run: the package's own, never a copy."""
    display(Code(textwrap.dedent(inspect.getsource(thing)), language="python"))  # type: ignore[no-untyped-call]


@contextmanager
def expect(kind: type[Exception], *, quote: bool = True) -> Iterator[None]:
    """Run a body that must fail in this way, and print that it did.

    Args:
        kind: what must be raised.
        quote: print its message too; not for one that differs from run to run.

    Raises:
        AssertionError: it was not raised.
    """
    try:
        yield
    except kind as error:
        print(f"{kind.__name__}: {error}" if quote else f"{kind.__name__}, as expected")
    else:
        raise AssertionError(f"{kind.__name__} was expected, and did not come")
