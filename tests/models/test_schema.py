"""Migrations own the schema and the models map it: the two must say the same."""

import importlib
import pkgutil

import peewee
from playhouse import postgres_ext

import db
import models
from models.fields import Xid8Field

TYPES = {
    peewee.TextField: "text",
    peewee.BigIntegerField: "bigint",
    peewee.IntegerField: "integer",
    peewee.SmallIntegerField: "smallint",
    peewee.BooleanField: "boolean",
    peewee.DecimalField: "numeric",
    peewee.DoubleField: "double precision",
    peewee.DateField: "date",
    peewee.TimeField: "time without time zone",
    peewee.UUIDField: "uuid",
    peewee.BlobField: "bytea",
    postgres_ext.DateTimeTZField: "timestamp with time zone",
    postgres_ext.IntervalField: "interval",
    postgres_ext.BinaryJSONField: "jsonb",
    Xid8Field: "xid8",
}


def mapped() -> dict[str, type[peewee.Model]]:
    for module in pkgutil.iter_modules(models.__path__, "models."):
        importlib.import_module(module.name)
    return {model._meta.table_name: model for model in db.BaseModel.__subclasses__()}


def described() -> dict[str, dict[str, tuple[str, bool]]]:
    """Tables of the database: column to its type and whether it may be null."""
    tables: dict[str, dict[str, tuple[str, bool]]] = {}
    for table, column, kind, nullable in db.rows(
        """select c.relname, a.attname, format_type(a.atttypid, a.atttypmod), not a.attnotnull
           from pg_class c join pg_attribute a on a.attrelid = c.oid
           where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
             and a.attnum > 0 and not a.attisdropped and c.relname <> 'schema_migration'"""
    ):
        tables.setdefault(table, {})[column] = (kind, nullable)
    return tables


def test_every_table_has_a_model_and_every_model_a_table(database):
    assert mapped().keys() == described().keys()


def test_models_and_migrations_agree_on_columns_types_and_what_may_be_null(database):
    tables = described()
    for name, model in mapped().items():
        fields = {f.column_name: (TYPES[type(f)], f.null) for f in model._meta.sorted_fields}
        assert fields == tables[name], name


def test_models_and_migrations_agree_on_primary_keys(database):
    keys = dict(
        db.rows(
            """select i.indrelid::regclass::text, array_agg(a.attname::text order by array_position(i.indkey, a.attnum))
               from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)
               where i.indisprimary group by 1"""
        )
    )
    for name, model in mapped().items():
        key = model._meta.primary_key
        names = list(key.field_names) if isinstance(key, peewee.CompositeKey) else [key.column_name]
        assert keys[name] == names, name
