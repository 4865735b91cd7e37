"""Campaigns, their events, rankings and leases."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "campaigns",
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("content", sa.Text, nullable=False),
    )
    op.create_table(
        "rankings",
        sa.Column("id", number, primary_key=True, autoincrement=True),
        sa.Column("campaign", sa.String(128), sa.ForeignKey("campaigns.name"), nullable=False, index=True),
        sa.Column("content", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "events",
        sa.Column("sequence", number, primary_key=True, autoincrement=True),
        sa.Column("campaign", sa.String(128), sa.ForeignKey("campaigns.name"), nullable=False, index=True),
        sa.Column("request", sa.String(128), nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.UniqueConstraint("campaign", "request", name="one_event_per_request"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "leases",
        sa.Column("campaign", sa.String(128), sa.ForeignKey("campaigns.name"), primary_key=True),
        sa.Column("object_id", sa.Text, primary_key=True),
        sa.Column("rater", sa.String(128), primary_key=True),
        sa.Column("ranking", number, sa.ForeignKey("rankings.id"), nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("until_utc", sa.String(32), nullable=False),
    )


def downgrade() -> None:
    """Drop the tables, and all that was rated."""
    for table in ("leases", "events", "rankings", "campaigns"):
        op.drop_table(table)
