"""Prometheus's text format as a table."""

from prometheus_client.parser import text_string_to_metric_families


class Samples:
    """The samples of a scrape; ``samples["name", "value", ...]`` finds one by its name and its label values."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self._values = {
            (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def __getitem__(self, key: str | tuple[str, ...]) -> float:
        return self._values[key if isinstance(key, tuple) else (key,)]

    @property
    def names(self) -> set[str]:
        """Names of all samples, as a query asks for them."""
        return {key[0] for key in self._values}

    def labels(self, family: str) -> set[str]:
        """Names of the labels of a family."""
        return {label for sample in self.families[family].samples for label in sample.labels}

    def __len__(self) -> int:
        return len(self._values)
