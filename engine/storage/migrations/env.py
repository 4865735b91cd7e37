"""Runs the steps on the connection that `engine.storage.campaign_tables` gives."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], target_metadata=None)
context.run_migrations()
