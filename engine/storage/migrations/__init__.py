"""How the campaigns' database came to its tables, step by step (Alembic)."""
