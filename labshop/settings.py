"""Every knob of the lab, in one frozen object.

Only composition roots (`labshop.api.app`, `labshop.cli`, `labshop.lab.session`) build a
`Settings`; everything below them is handed plain values. Each setting is an environment
variable with the prefix ``LABSHOP_`` and says its unit in its name.
"""

import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from labshop.errors import SetupError

Milliseconds = Annotated[int, Field(gt=0, le=600_000)]
Count = Annotated[int, Field(gt=0, le=1_000_000)]
Port = Annotated[int, Field(ge=0, le=65_535)]


class Settings(BaseSettings):
    """The lab's settings, read once from the environment."""

    model_config = SettingsConfigDict(env_prefix="LABSHOP_", frozen=True, extra="ignore")

    home: Path = Path(".labshop")
    """Folder for the ledger, the nodes' data, their logs and the state file."""
    redis_server: Path | None = None
    """A redis-server or valkey-server to run; None takes the packaged Valkey."""

    gate_url: str | None = None
    """URL of the Redis that holds the stock and the v1 lock; None asks the state file. One of

    - ``redis://[user:password@]host[:port][/database]``: this server;
    - ``redis+sentinel://[user:password@]host:26379,host:26379,…/service[/database]``: whoever its
      Sentinels say is the master; they may want ``?sentinel_username=…&sentinel_password=…``;
    - ``redis+cluster://[user:password@]host:port,host:port,…``: whoever has the sale's slot, as
      these nodes of a Cluster say.
    """
    lock_urls: str | None = None
    """URLs of the independent masters that keep the v3 lock, with commas between them; None asks
    the state file."""
    gate_shard_urls: str | None = None
    """URLs of the servers among which the stock is split, with commas between them, the same in
    every process; None keeps all of it on the gate's primary."""
    replica_url: str | None = None
    """URL of a replica of the gate's primary, to look at the stock; None asks the state file, an
    empty one is none. Nothing is ever sold by what it says."""
    database_url: str | None = None
    """SQLAlchemy URL of the ledger; None is SQLite in `home`."""

    api_host: str = "127.0.0.1"
    api_port: Port | None = None
    """Port of the API; None prefers 8000 and takes a free one if that is taken."""
    jwt_secret: SecretStr | None = None
    """At least 32 bytes; None makes a random one, kept in `home`."""
    admin_password: SecretStr | None = None
    """Password of the seeded administrator; None makes a random one, kept in `home`."""
    strategy: str | None = None
    """`module:Class` of a purchase strategy to serve under /own/purchases."""

    node_timeout_ms: Milliseconds = 500
    """How long one Redis command may take before its outcome counts as unknown."""
    lock_node_timeout_ms: Milliseconds = 250
    """The same for one node of a quorum: far less than a lease, and more than a slow network."""
    database_timeout_ms: Milliseconds = 5_000
    """How long one ledger transaction may take before its outcome counts as unknown."""
    stock_ttl_ms: int = Field(default=100, ge=0, le=600_000)
    """How long a number of the stock is shown again before it is read anew; 0 is not at all."""
    replica_age_ms: Milliseconds = 1_000
    """How old the replica's copy may be; while it may be older, the primary is asked instead."""
    lock_ttl_ms: Milliseconds = 3_000
    """How long a lease lasts; so long, too, a lock node that has just started has no vote."""
    lock_wait_ms: Milliseconds = 10_000
    reservation_ttl_ms: Milliseconds = 5_000
    """Age at which a reservation without an order is looked up and settled."""
    compare_interval_ms: Milliseconds = 5_000
    """Time between two comparisons of gate and ledger, which one process makes for all."""
    leader_lease_ms: Milliseconds = 3_000
    """How long it is waited for a leader that has died, before another process leads."""
    request_timeout_ms: Milliseconds = 20_000
    """How long a request may take, from its first byte to its answer."""
    receive_timeout_ms: Milliseconds = 5_000
    """How long a client may take to send its headers, and then its body."""
    purchases_at_once: Count = 1_024
    """Purchases of stage v4 that may be under way; whoever comes then is refused at once. So long
    is the wait at most: this many, divided by the purchases that are served in a second."""
    locked_purchases_at_once: Count = 256
    """The same for each of the other stages, which serve the buyers of a product one by one."""
    purchase_deadline_ms: Milliseconds = 10_000
    """Age at which no further step of a purchase is begun."""
    breaker_failures: Count = 5
    """Failures in a row of a store or of the locks, after which it is left in peace."""
    breaker_recovery_ms: Milliseconds = 1_000
    """For how long, before one buyer tries whether it is back."""
    user_rate_per_s: float = Field(default=5.0, gt=0, le=1_000_000)
    """Purchases a second that one user may ask for in the long run."""
    user_burst: Count = 10
    """How many of them at once, after a rest."""
    body_limit_bytes: int = Field(default=16_384, gt=0, le=1_048_576)
    token_ttl_s: int = Field(default=3_600, gt=0, le=86_400)

    def lock_node_urls(self) -> tuple[str, ...]:
        """The URLs of the lock nodes, one by one."""
        return tuple(url.strip() for url in (self.lock_urls or "").split(",") if url.strip())

    def shard_urls(self) -> tuple[str, ...]:
        """The URLs of the shards, one by one; none, where the stock is not split."""
        # One URL may name several Sentinels, with commas between them as well.
        urls = re.split(r",\s*(?=[a-z+]+://)", self.gate_shard_urls or "")
        return tuple(url.strip() for url in urls if url.strip())

    def ledger_url(self) -> str:
        """The SQLAlchemy URL of the ledger, after the default is filled in."""
        return self.database_url or f"sqlite:///{(self.home / 'ledger.db').resolve()}"


def read_settings(**overrides: object) -> Settings:
    """Read the settings from the environment.

    Raises:
        SetupError: a value is not usable; one sentence names each such variable.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # pydantic checks them
    except ValidationError as error:
        faults = "; ".join(
            f"LABSHOP_{'.'.join(map(str, fault['loc'])).upper()}: {fault['msg']}"
            for fault in error.errors(include_input=False)
        )
        raise SetupError(f"A setting is not usable. {faults}.") from None
