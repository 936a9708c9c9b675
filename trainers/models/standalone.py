"""Load shared models with transformers alone: mixins of the classes that exported code defines.

>>> class SharedLlamaForCausalLM(StandaloneModel, LlamaForCausalLM):   # doctest: +SKIP
...     config_class, classes = SharedLlamaConfig, CLASSES
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from sharetune.spaces.errors import ModelError
from sharetune.trainers.models.activation_reuse import HandsOver
from sharetune.trainers.models.devices import one_device
from sharetune.trainers.models.layout import build_

NO_PLAIN_WEIGHTS = "weights-are-read-with-trust_remote_code.safetensors"
"""A file name that ``config.json`` gives for the weights to classes other than its own.

There is no such file. Without it the unshared class would find weights under their usual name, and
fill those that are in banks with random numbers.
"""


class StandaloneConfig:
    """The mixin of a family's configuration that also holds the `layout` of a shared model."""

    layout: dict[str, Any]

    def __post_init__(self, **settings: object) -> None:
        settings.pop("transformers_weights", None)
        super().__post_init__(**settings)  # type: ignore[misc]

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        settings: dict[str, Any] = super().to_dict()  # type: ignore[misc]
        return settings | {"transformers_weights": NO_PLAIN_WEIGHTS}


class StandaloneModel(HandsOver):
    """The mixin of a family's model that gives it the modules of its configuration's layout."""

    classes: ClassVar[Mapping[str, type[Any]]]

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        prefix: str = self.base_model_prefix  # type: ignore[attr-defined]
        build_(self, config.layout, self.classes, "" if hasattr(self, prefix) else f"{prefix}.")  # type: ignore[arg-type]

    @classmethod
    def from_pretrained(
        cls,
        *args: object,
        device_map: object = None,
        output_loading_info: bool = False,
        **kwargs: object,
    ) -> Any:
        """Load a model, as the method of transformers does. A `device_map` must name one device.

        Raises :class:`ModelError` if a tensor is missing or of another shape.
        """
        if device_map is not None:
            kwargs["device_map"] = one_device(device_map)
        model, info = super().from_pretrained(  # type: ignore[misc]
            *args, output_loading_info=True, **kwargs
        )
        wrong = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
        if wrong:
            raise ModelError(
                f"{len(wrong)} tensors of {cls.__name__} are missing or of another shape, "
                f"such as {wrong[0]}",
                "the folder is damaged or was edited; export the model again",
            )
        return (model, info) if output_loading_info else model
