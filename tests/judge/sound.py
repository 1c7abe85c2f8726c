"""A correct shop with real concurrency, simulated: its histories must never be accused.

Every operation has one moment of effect between its invocation and its answer; effects are
applied in the order of these moments. Clients follow one another's work only through the shop.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from labshop.judge.history import (
    FaultRecord,
    History,
    LockRecord,
    Operation,
    OperationOutcome,
    Sale,
)

PRODUCTS = (1, 2, 3)


@dataclass
class _Plan:
    """An operation before its effect: who does what, and when it begins, acts and ends."""

    number: int
    client: int
    invoked_ms: float
    acts_ms: float
    ended_ms: float
    action: str
    args: dict[str, Any]
    lost: str = ""


@dataclass
class SoundShop:
    """What the simulated shop knows.

    Args:
        chance: decides everything.
        clients: how many work at the same time, each with one operation at a time.
        whole_ms: whether times are rounded, so that many of them are equal.
    """

    chance: random.Random
    stock: Mapping[int, int]
    limit: int | None = None
    clients: int = 4
    whole_ms: bool = False
    loss: float = 0.08
    audits: float = 1.0
    left: dict[int, int] = field(default_factory=dict)
    orders: dict[str, dict[str, Any]] = field(default_factory=dict)
    by_key: dict[tuple[str, str], str] = field(default_factory=dict)
    keys: list[tuple[int, str, dict[str, int], str]] = field(default_factory=list)
    numbers: int = 0

    def run(self, count: int) -> History:
        """A history of so many operations, with audits at the end."""
        self.left = dict(self.stock)
        plans = self._plans(count)
        operations = [self._act(plan) for plan in sorted(plans, key=lambda plan: plan.acts_ms)]
        end_ms = max((max(plan.ended_ms, plan.acts_ms) for plan in plans), default=0.0) + 1
        final = _Plan(count, 0, end_ms, end_ms + 1, end_ms + 2, "audit", {"settled": True})
        operations.append(self._act(final))
        operations.sort(key=lambda operation: operation.invoked_ms)
        faults = (FaultRecord("slow", "network", 0.0, end_ms),) if self.loss else ()
        return History(Sale(dict(self.stock), self.limit), tuple(operations), (), faults)

    def _plans(self, count: int) -> list[_Plan]:
        free = [0.0] * self.clients
        plans = []
        for number in range(count):
            client = min(range(self.clients), key=free.__getitem__)
            invoked = free[client] + self.chance.random() * self.chance.choice((0, 1, 4))
            acts = invoked + self.chance.random() * self.chance.choice((0, 1, 3))
            ended = acts + self.chance.random() * self.chance.choice((0, 1, 3))
            if self.whole_ms:
                # What is rounded alike keeps its order: only ties are added.
                begun, over = float(int(invoked)), float(int(ended))
            else:
                begun, over = invoked, ended
            free[client] = ended
            lost = ""
            if self.chance.random() < self.loss:
                lost = self.chance.choice(("before", "after"))
                # Whoever lost the reply may have acted long after the client gave up.
                acts += self.chance.choice((0, 0, 20)) if lost == "after" else 0
            plan = _Plan(number, client, begun, acts, over, "", {}, lost)
            plans.append(plan)
        return plans

    def _act(self, plan: _Plan) -> Operation:
        kind = (
            plan.action
            or self.chance.choices(
                ("buy", "retry", "read", "cancel", "restock", "audit"),
                (50, 10, 25, 8, 4, self.audits),
            )[0]
        )
        action = {"retry": "buy"}.get(kind, kind)
        args = plan.args or getattr(self, f"_ask_{kind}")(plan)
        if args is None:
            action, args = "buy", self._ask_buy(plan)
        outcome: OperationOutcome = "unknown"
        result: dict[str, Any] = {"error": "Timeout"}
        if plan.lost != "before":
            told = getattr(self, f"_do_{action}")(args)
            outcome, result = told if not plan.lost else (outcome, result)
        if action == "audit" and plan.lost:
            outcome, result = "fail", {"error": "Unavailable"}
        ended = plan.ended_ms if not plan.lost or self.chance.random() < 0.9 else None
        client = f"c{plan.client}"
        return Operation(
            str(plan.number), client, action, args, plan.invoked_ms, ended, outcome, result
        )

    def _ask_buy(self, plan: _Plan) -> dict[str, Any]:
        several = min(len(self.stock), self.chance.choice((1, 1, 1, 2)))
        chosen = self.chance.sample(sorted(self.stock), several)
        lines = {str(product): self.chance.choice((1, 1, 2)) for product in chosen}
        user = self.chance.randrange(6)
        args: dict[str, Any] = {"user": self.chance.choice((user, str(user))), "lines": lines}
        naming = self.chance.random()
        if naming < 0.6:
            # Two users may well use the same key.
            key = f"k{self.chance.randrange(10**6) if naming < 0.5 else plan.number // 2}"
            if (str(user), key) not in [(str(u), k) for u, k, _, _ in self.keys[-4:]]:
                args["key"] = key
                self.keys.append((user, key, lines, ""))
        elif naming < 0.8:
            args["order"] = f"own-{plan.number}"
            self.keys.append((user, "", lines, args["order"]))
        return args

    def _ask_retry(self, plan: _Plan) -> dict[str, Any] | None:
        if not self.keys:
            return None
        user, key, lines, order = self.chance.choice(self.keys[-8:])
        named = {"key": key} if key else {"order": order}
        if key and self.chance.random() < 0.1:
            lines = {"1": 3}
        return {"user": user, "lines": lines, **named}

    def _ask_read(self, _plan: _Plan) -> dict[str, Any]:
        place = self.chance.choice((None, None, "gate", "ledger"))
        product = self.chance.choice(sorted(self.stock))
        return {"product": product} | ({"place": place} if place else {})

    def _ask_cancel(self, _plan: _Plan) -> dict[str, Any] | None:
        if not self.orders:
            return None
        order = self.chance.choice(list(self.orders)[-12:])
        return {"order": order, "user": self.orders[order]["user"]}

    def _ask_restock(self, _plan: _Plan) -> dict[str, Any]:
        units = self.chance.choice((1, 2, 3, -1))
        return {"product": self.chance.choice(sorted(self.stock)), "units": units}

    def _ask_audit(self, _plan: _Plan) -> dict[str, Any]:
        return {"place": self.chance.choice(("ledger", "book"))}

    def _do_buy(self, args: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        user, lines = str(args["user"]), {int(p): units for p, units in args["lines"].items()}
        known = args.get("order") if args.get("order") in self.orders else None
        if args.get("key") is not None:
            known = self.by_key.get((user, args["key"]))
        if known is not None:
            if self.orders[known]["lines"] != args["lines"]:
                return "fail", {"error": "KeyReused"}
            return "ok", self._receipt(known)
        for product, units in lines.items():
            if self.left[product] < units:
                named = {"product": product} if self.chance.random() < 0.7 else {}
                return "fail", {"error": "SoldOut", **named}
        if self.limit is not None and self._bought(user) + sum(lines.values()) > self.limit:
            return "fail", {"error": "LimitReached"}
        for product, units in lines.items():
            self.left[product] -= units
        self.numbers += 1
        order = args.get("order") or f"o{self.numbers}"
        row = {"order": order, "user": args["user"], "key": args.get("key")}
        self.orders[order] = row | {"lines": dict(args["lines"]), "status": "confirmed"}
        if args.get("key") is not None:
            self.by_key[user, args["key"]] = order
        return "ok", self._receipt(order)

    def _receipt(self, order: str) -> dict[str, Any]:
        # A client in another language may not write down the order, where its key names it.
        if self.orders[order]["key"] is not None and self.chance.random() < 0.1:
            return {}
        return {"order": order}

    def _bought(self, user: str) -> int:
        standing = (o for o in self.orders.values() if o["status"] == "confirmed")
        return sum(sum(o["lines"].values()) for o in standing if str(o["user"]) == user)

    def _do_cancel(self, args: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        row = self.orders[args["order"]]
        if row["status"] == "confirmed":
            row["status"] = "cancelled"
            for product, units in row["lines"].items():
                self.left[int(product)] += units
        return "ok", {}

    def _do_restock(self, args: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if self.left[args["product"]] + args["units"] < 0:
            return "fail", {"error": "TooFew"}
        self.left[args["product"]] += args["units"]
        return "ok", {}

    def _do_read(self, args: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        product = args["product"]
        left, sold = self.left[product], self._sold()[product]
        held = self.chance.randint(0, left)
        told: list[dict[str, Any]] = [
            {"left": left},
            {"left": left - held, "held": held},
            {"left": left, "sold": sold},
            {"sold": sold},
            {"left": None},
        ]
        return "ok", self.chance.choice(told)

    def _do_audit(self, args: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        told: dict[str, Any] = {"left": {str(p): units for p, units in self.left.items()}}
        if args.get("settled") or self.chance.random() < 0.8:
            told["orders"] = [
                dict(row) | {"lines": dict(row["lines"])} for row in self.orders.values()
            ]
        else:
            told["sold"] = {str(p): units for p, units in self._sold().items()}
        return "ok", told

    def _sold(self) -> dict[int, int]:
        sold = dict.fromkeys(self.stock, 0)
        for row in self.orders.values():
            if row["status"] == "confirmed":
                for product, units in row["lines"].items():
                    sold[int(product)] += units
        return sold


def sound_history(seed: int, count: int, clients: int = 4, *, loss: float = 0.08) -> History:
    """A history that nothing is wrong with."""
    chance = random.Random(seed)
    products = PRODUCTS[: chance.choice((1, 1, 2, 3))]
    stock = {product: chance.choice((0, 1, 3, 10, count)) for product in products}
    limit = chance.choice((None, 2, 5, 40))
    shop = SoundShop(chance, stock, limit, clients, whole_ms=chance.random() < 0.3, loss=loss)
    return shop.run(count)


def sound_leases(seed: int, count: int, clients: int = 4) -> tuple[LockRecord, ...]:
    """The events of a correct lock of one key, whose holders are paused now and then."""
    chance = random.Random(seed)
    free_ms, fence, records = 0.0, 0, list[LockRecord]()
    for number in range(count):
        process, token = f"c{chance.randrange(clients)}", f"t{number}"
        granted = free_ms + chance.random()
        fence += chance.choice((1, 1, 5))
        asked = max(granted - chance.random() * 5, 0.0)
        told = granted + chance.random() * chance.choice((1, 1, 1, 20))
        deadline = granted + 10
        releasing = told + chance.random() * chance.choice((2, 2, 2, 30))
        over = releasing + chance.random()
        event = "released" if over < deadline else "lost"
        free_ms = min(over, deadline)
        records += [
            LockRecord(told, process, "acquired", "product:1", token, fence, deadline, asked),
            LockRecord(over, process, event, "product:1", token, fence, releasing),
        ]
    return tuple(sorted(records, key=lambda record: record.at_ms))
