"""What a new shop holds: ten products, three bundles, one sale, one administrator."""

from datetime import UTC, datetime

from sqlmodel import Session, col, select

from labshop.storage.changes import append_event
from labshop.storage.database import Database
from labshop.storage.tables import Bundle, BundleItem, Product, SaleWindow, User

STOCK = 100
LIMIT_PER_USER = 10
PRODUCTS = (
    ("Noise-cancelling headphones", 19_900),
    ("Games console", 44_900),
    ("Espresso machine", 32_900),
    ("Robot vacuum", 27_900),
    ("4K television", 59_900),
    ("Smart watch", 21_900),
    ("Mechanical keyboard", 11_900),
    ("Action camera", 24_900),
    ("E-book reader", 12_900),
    ("Electric kettle", 4_900),
)
BUNDLES = (
    ("Gaming night", (1, 2, 5)),
    ("Slow morning", (3, 9, 10)),
    ("On the road", (1, 6, 8)),
)


def seed(database: Database, *, admin_password_hash: str) -> None:
    """Fill an empty shop; a shop that has products stays as it is.

    Args:
        database: a migrated database.
        admin_password_hash: for the user ``admin``.
    """
    with database.writing() as session:
        if session.exec(select(Product.id)).first() is None:
            _fill(session)
        if session.exec(select(User.id).where(col(User.role) == "admin")).first() is None:
            at = datetime.now(UTC)
            admin = User(
                name="admin", password_hash=admin_password_hash, role="admin", created_at=at
            )
            session.add(admin)
        session.commit()


def _fill(session: Session) -> None:
    # Numbered here: a sequence of PostgreSQL does not go back when a seeding was broken off, and
    # the bundles name their products by number.
    for number, (name, price_minor) in enumerate(PRODUCTS, start=1):
        session.add(Product(id=number, name=name, price_minor=price_minor, stock_left=STOCK))
        session.flush()
        append_event(session, number, STOCK, "seeded", "system", None)
    for number, (name, product_ids) in enumerate(BUNDLES, start=1):
        session.add(Bundle(id=number, name=name))
        session.flush()
        for product_id in product_ids:
            session.add(BundleItem(bundle_id=number, product_id=product_id, quantity=1))
    # Open at all times, so that a lesson can be taken on any day of the year.
    session.add(
        SaleWindow(
            name="Black Friday",
            opens_at=datetime(2026, 1, 1, tzinfo=UTC),
            closes_at=datetime(2100, 1, 1, tzinfo=UTC),
            limit_per_user=LIMIT_PER_USER,
        )
    )
