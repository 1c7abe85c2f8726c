"""Users, and tokens that were taken back."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from labshop.shop.errors import Refused
from labshop.storage.database import Database
from labshop.storage.tables import RevokedToken, User
from labshop.storage.writer import GroupWriter


class NameTaken(Refused):
    """Somebody else has this name."""


@dataclass(frozen=True)
class Account:
    """A user, as the ledger knows them at this moment."""

    id: int
    name: str
    role: str
    password_hash: str


class Accounts:
    """Every method raises `Unavailable` when the ledger cannot be reached."""

    def __init__(self, database: Database, writer: GroupWriter) -> None:
        self._database = database
        self._writer = writer

    async def create(self, name: str, password_hash: str, *, role: str = "buyer") -> Account:
        """Add a user.

        Raises:
            NameTaken: somebody has this name.
        """
        return await self._writer.submit(
            lambda session: _create(session, name, password_hash, role)
        )

    async def by_name(self, name: str) -> Account | None:
        """The user of that name, or None."""
        return await self._one(select(User).where(User.name == name))

    async def holder_of(self, user_id: int, token_id: str) -> Account | None:
        """The user of a token, or None when they are gone or the token was taken back."""
        taken_back = select(RevokedToken.token_id).where(RevokedToken.token_id == token_id)
        return await self._one(select(User).where(User.id == user_id, ~taken_back.exists()))

    async def revoke(self, token_id: str, expires_at: datetime) -> None:
        """Take a token back; those that expired by themselves are forgotten."""
        await self._writer.submit(lambda session: _revoke(session, token_id, expires_at))

    async def _one(self, query: Any) -> Account | None:
        user: User | None = await self._database.read(lambda session: session.exec(query).first())
        return None if user is None else _account(user)


def _create(session: Session, name: str, password_hash: str, role: str) -> Account:
    user = User(name=name, password_hash=password_hash, role=role, created_at=datetime.now(UTC))
    try:
        with session.begin_nested():
            session.add(user)
    except IntegrityError:
        raise NameTaken(f"The name {name} is taken.") from None
    return _account(user)


def _revoke(session: Session, token_id: str, expires_at: datetime) -> None:
    session.execute(delete(RevokedToken).where(col(RevokedToken.expires_at) < datetime.now(UTC)))
    session.merge(RevokedToken(token_id=token_id, expires_at=expires_at))


def _account(user: User) -> Account:
    assert user.id is not None
    return Account(user.id, user.name, user.role, user.password_hash)
