"""What is chosen by name, with options: in ``params.yaml``, on the command line and in Python.

A choice is one class. One that gives its key a default, ``method: Literal["linear"] = "linear"``, is in the ``registry`` of
its base from then on; one of a user's own needs no name: ``package.module:Class`` is it. This module does not import torch,
so that options are validated before anything heavy is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from typing import Annotated, Any, ClassVar, TypeVar, Union

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    InstanceOf,
    SerializeAsAny,
    Tag,
    ValidationError,
)

from know.options import imported

OWN = "package.module:Class"


class Options(BaseModel):
    """Unknown options are errors; values cannot be changed afterwards.

    ``name``: what the results call it, if not by the choice's own name; so that one can stand beside itself with other
    options.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    key: ClassVar[str]
    """The field that holds the choice's name."""
    registry: ClassVar[dict[str, type[Any]]]
    """Every choice with a name."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")] | None = None

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: object) -> None:
        named = getattr(cls, "key", "") in cls.__annotations__  # itself: a subclass does not take its parent's name
        if named and not (field := cls.model_fields[cls.key]).is_required():
            cls.registry[field.default] = cls

    @property
    def chosen(self) -> str:
        """The name in the registry, or ``package.module:Class``."""
        return str(getattr(self, self.key))

    @property
    def start(self) -> str:
        """What the results call it."""
        return self.name or self.chosen.rpartition(":")[2].lower()

    def stated(self, others: Sequence[Options]) -> str:
        """Its values of the options in which ``others`` differ from each other: "scale=0.3"."""
        return ", ".join(
            f"{key}={getattr(self, key)}"
            for key in type(self).model_fields
            if len({getattr(other, key) for other in others}) > 1
        )


T = TypeVar("T", bound=Options)


def class_named(base: type[T], name: str) -> type[T]:
    """The choice called ``name``, or a subclass of ``base`` of a user's own: ``package.module:Class``, or the name of an entry
    point of the group "know.method" or "know.control" in an installed package.

    Raises:
        ValueError: one line: there is none, and what there is; or the module cannot be imported.
    """
    if name in base.registry:
        found: type[T] = base.registry[name]
        return found
    entries = tuple(entry_points(group=f"know.{base.key}", name=name))
    if entries:
        name = entries[0].value
    if ":" not in name:
        raise ValueError(f"{base.key}: got {name!r}; allowed: {', '.join(base.registry)}, {OWN}")
    own = imported(name, base.key)
    if not (isinstance(own, type) and issubclass(own, base)):
        raise ValueError(f"{base.key} {name}: not a subclass of {base.__module__}.{base.__name__}")
    return own


def option_named(base: type[T], name: str, options: Mapping[str, object]) -> T:
    """The choice called ``name`` with these options.

    Raises:
        ValueError: one line that names the choice or the option, what was given and what is allowed.
    """
    cls = class_named(base, name)
    try:
        return cls.model_validate({base.key: name, **options})
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}: " for part in first["loc"])
        allowed = ", ".join(sorted(cls.model_fields.keys() - {base.key, "name"})) or "none"
        raise ValueError(
            f"{name}: {where}{first['msg'].removeprefix('Value error, ')}; its options: {allowed}"
        ) from None


def any_of(base: type[Options]) -> Any:
    """The type of a field that takes any choice: a name, ``linear``, or one with options, ``{method: tsv, scale: 0.5}``."""

    known = dict(base.registry)  # whoever registers later is one's own

    def given(value: object) -> object:
        if isinstance(value, str):
            value = {base.key: value}
        name = str(value.get(base.key)) if isinstance(value, Mapping) else ""
        if isinstance(value, Mapping) and name not in known and (":" in name or name in base.registry):
            return option_named(base, name, {key: option for key, option in value.items() if key != base.key})
        return value

    def tag(value: Any) -> str | None:
        name = value.get(base.key) if isinstance(value, Mapping) else getattr(value, base.key, None)
        return OWN if isinstance(value, base) and name not in known else name

    tagged = [Annotated[cls, Tag(name)] for name, cls in known.items()]
    own = Annotated[SerializeAsAny[InstanceOf[base]], Tag(OWN)]  # type: ignore[valid-type]
    return Annotated[Union[(*tagged, own)], Discriminator(tag), BeforeValidator(given)]
