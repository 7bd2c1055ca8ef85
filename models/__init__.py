"""What we remember: Peewee models by area, named queries and set-based statements."""
