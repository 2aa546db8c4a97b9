"""Scoring of restored photos against their references: matching of folders, scores, means and their uncertainty."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from daclip.data.pairing import match_names, pair_account, require_partners
from daclip.errors import DaclipError
from daclip.files import account, find_photos, name_of, one_line
from daclip.images import save_image
from daclip.metrics.classification import finite_mean, means_by_label
from daclip.metrics.image import MetricUnavailableError, PairMetric, Protocol, SetMetric


@dataclass(frozen=True)
class Bootstrap:
    """Means over redrawn photos."""

    per_class: dict[str, Tensor]  # label to means, float64 `[draws, K]` for K columns of values
    macro: Tensor  # mean over the labels, `[draws, K]`
    units: int  # number of photos that were drawn from


def bootstrap(
    units: Sequence[str], classes: Sequence[str], values: Tensor, draws: int, generator: torch.Generator
) -> Bootstrap:
    """Redraw photos with replacement and average again (cluster bootstrap; Davison and Hinkley 1997, §3.8). Row n of
    the `values` `[N, K]` belongs to photo `units[n]` and label `classes[n]`. A photo is drawn with all of its rows,
    which are not independent, and among photos of the same classes, so that none is left empty."""
    names, labels = sorted(set(units)), list(dict.fromkeys(classes))
    place = {name: index for index, name in enumerate(names)}
    unit = torch.tensor([place[name] for name in units])
    label = torch.tensor([labels.index(name) for name in classes])
    sums = torch.zeros(len(names), len(labels), values.shape[1], dtype=torch.float64)
    counts = torch.zeros(len(names), len(labels), dtype=torch.float64)
    sums.index_put_((unit, label), values.double(), accumulate=True)
    counts.index_put_((unit, label), torch.ones(len(unit), dtype=torch.float64), accumulate=True)
    drawn = torch.zeros(draws, len(names), dtype=torch.float64)
    strata: dict[tuple[bool, ...], list[int]] = {}
    for index, present in enumerate((counts > 0).tolist()):
        strata.setdefault(tuple(present), []).append(index)
    for members in strata.values():
        picks = torch.randint(len(members), (draws, len(members)), generator=generator)
        chosen = torch.tensor(members)[picks]
        drawn.scatter_add_(1, chosen, torch.ones_like(chosen, dtype=torch.float64))
    totals = torch.einsum("du,uwk->dwk", drawn, sums) / (drawn @ counts)[..., None]
    return Bootstrap({name: totals[:, i] for i, name in enumerate(labels)}, totals.mean(1), len(names))


def interval(means: Tensor, confidence: float) -> tuple[float, float] | None:
    """Percentile interval of redrawn means `[draws]`; None where one of them is infinite."""
    if not bool(means.isfinite().all()):
        return None
    tail = (1 - confidence) / 2
    low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=means.dtype)).tolist()
    return round(low, 9), round(high, 9)


@dataclass(frozen=True)
class Difference:
    """Mean difference of two runs on the same photos, second minus first, with its interval. `p` is the two-sided
    bootstrap p-value, at least 2^(1 − photos), the least that a sign test can reach."""

    mean: float
    low: float
    high: float
    p: float


def paired_difference(
    units: Sequence[str],
    classes: Sequence[str],
    differences: Tensor,
    draws: int,
    confidence: float,
    generator: torch.Generator,
) -> Difference | None:
    """Compare two runs by their `differences` `[N]` on each row, as `bootstrap`; None where one is not finite."""
    means = bootstrap(units, classes, differences[:, None], draws, generator).macro[:, 0]
    ends = interval(means, confidence)
    if ends is None:
        return None
    mean = finite_mean(list(means_by_label(classes, differences.tolist()).values()))
    # One is added to both counts, so that no finite number of draws claims p = 0 (Davison and Hinkley 1997, §4.2).
    other_side = min(int((means <= 0).sum()), int((means >= 0).sum()))
    p = 2 * (other_side + 1) / (draws + 1)
    # If the systems were alike, n photos would all point the same way this often; two photos prove nothing.
    least = 2.0 ** (1 - len(set(units)))
    return Difference(mean, *ends, min(1.0, max(p, least)))


UNSORTED = "all"  # the group of photos that lie in no subfolder


@dataclass(frozen=True)
class FilePair:
    """One photo on disk."""

    name: str  # path of its reference below the folder, without suffix; its own where several share a reference
    group: str  # first subfolder of the path, such as a class of degradation; `all` without one
    pred: Path  # the restored photo
    gt: Path  # its reference
    lq: Path | None  # the degraded photo, where a third folder is given


def match_folders(pred: str | Path, gt: str | Path, lq: str | Path | None = None) -> tuple[list[FilePair], str]:
    """Pair the photos of two or three folders by name, see `match_names`; several results may share a reference. Also
    says what was found."""
    folders = {"pred": Path(pred), "gt": Path(gt), **({} if lq is None else {"lq": Path(lq)})}
    found = {option: find_photos(root) for option, root in folders.items()}
    paths = {option: {name_of(path, side.root): path for path in side.photos} for option, side in found.items()}
    stems: dict[str, str] = {}
    for name in paths["pred"]:
        stem = PurePosixPath(name).with_suffix("").as_posix()
        if stem in stems:
            raise DaclipError(f"pred={pred}: {stems[stem]} and {name} have the same name; remove one")
        stems[stem] = name
    matching = match_names(paths["pred"], paths["gt"])
    require_partners(matching, f"pred={pred}", f"gt={gt}")
    degraded: dict[str, str] = {}
    if lq is not None:
        by_lq = match_names(paths["pred"], paths["lq"])
        require_partners(by_lq, f"pred={pred}", f"lq={lq}")
        degraded = dict(by_lq.pairs)
    uses = Counter(reference for _, reference in matching.pairs)
    pairs = []
    for name, reference in matching.pairs:
        own = PurePosixPath(reference if uses[reference] == 1 else name).with_suffix("").as_posix()
        group = own.split("/")[0] if "/" in own else UNSORTED
        degraded_path = paths["lq"][degraded[name]] if degraded else None
        pairs.append(FilePair(own, group, paths["pred"][name], paths["gt"][reference], degraded_path))
    parts = [account(list(found.values())), pair_account(matching.rules)]
    return sorted(pairs, key=lambda pair: pair.name), "; ".join(parts)


@dataclass(order=True)
class Kept:
    """A photo that is kept, ordered by `rank` (merit, or its negative for the worst), earlier photos first."""

    rank: float
    arrival: int
    facts: dict[str, Any] = field(compare=False)
    images: dict[str, Tensor] = field(compare=False)


class Extremes:
    """Holds the pictures of the photos of lowest and of highest merit, `count` of each kind.

    >>> extremes = Extremes(1)
    >>> for merit in (3.0, 1.0, 2.0):
    ...     extremes.offer(merit, {"merit": merit}, {})
    >>> [(which, kept.facts["merit"]) for which, kept in extremes.kept()]
    [('worst', 1.0), ('best', 3.0)]
    """

    def __init__(self, count: int):
        self.count = count
        self._offered = 0
        self._lists: dict[str, list[Kept]] = {"worst": [], "best": []}

    def offer(self, merit: float, facts: Mapping[str, Any], images: Mapping[str, Tensor]) -> None:
        """Show one photo: its merit, what is known of it, and its pictures `[3, H, W]` by name."""
        self._offered += 1
        for which, kept in self._lists.items():
            rank = merit if which == "best" else -merit
            kept.append(Kept(rank, -self._offered, dict(facts), dict(images)))
            kept.sort(reverse=True)
            del kept[self.count :]

    def kept(self) -> list[tuple[str, Kept]]:
        """`worst` photos, the worst first, then `best` ones, the best first; no photo is both."""
        worst = min(self.count, self._offered // 2)
        best = min(self.count, self._offered - worst)
        counts = {"worst": worst, "best": best}
        return [(which, entry) for which, kept in self._lists.items() for entry in kept[: counts[which]]]

    def save(self, folder: Path) -> list[dict[str, Any]]:
        """Write the pictures losslessly: an entry a photo with `rank`, its facts, and `files`, picture to file name."""
        entries = []
        for number, (which, entry) in enumerate(self.kept()):
            files = {name: f"{number:02d}_{which}_{name}.png" for name in entry.images}
            for name, image in entry.images.items():
                save_image(image, folder / files[name])
            entries.append({"rank": which, **entry.facts, "files": files})
        return entries


@dataclass(frozen=True)
class PhotoScore:
    """Scores of one photo."""

    name: str
    crop: int  # number of the photo's crop under this degradation
    degradation: str  # its label: a class, or several
    recognised: str | None  # the class that the system recognised; None where none was asked for
    scores: dict[str, float]  # metric to score; `METRIC_lq` is that of the degraded photo


class Scorer:
    """Collects scores; a metric that cannot be computed is left out and its reason kept."""

    def __init__(self, protocol: Protocol, metrics: Mapping[str, PairMetric | SetMetric]):
        self.protocol = protocol
        self.missing: dict[str, str] = {}  # metric to the reason why it is not computed
        self.photos: list[PhotoScore] = []  # one row a photo, in the order of `add`
        self.higher_is_better = {name: bool(metric.higher_is_better) for name, metric in metrics.items()}
        self.restored = MetricCollection(dict(metrics), compute_groups=False)
        self.degraded = self.restored.clone()
        self._seen: Counter[tuple[str, str]] = Counter()

    def _present(self) -> list[tuple[str, Any]]:
        return [(name, self.restored[name]) for name in self.higher_is_better if name not in self.missing]

    def add(
        self,
        names: Sequence[str],
        degradations: Sequence[str],
        restored: Tensor,
        hq: Tensor,
        lq: Tensor | None = None,
        recognised: Sequence[str] | None = None,
        exact: bool = False,
    ) -> None:
        """Score a batch of restored photos, and of degraded ones if given, all RGB `[B, 3, H, W]` in [0, 1]. `exact`
        is for files of more than 8 bits, to which the protocol's rounding would not be fair."""
        protocol = replace(self.protocol, eight_bit=False) if exact else self.protocol
        columns: dict[str, list[float]] = {}
        for name, metric in self._present():
            prepared = partial(protocol.prepare, network=metric.is_network)
            compared = [(name, metric, restored)]
            if lq is not None:
                compared.insert(0, (f"{name}_lq", self.degraded[name], lq))
            try:
                reference = prepared(hq)
                for key, one, images in compared:
                    one.update(prepared(images), reference)
                    if isinstance(one, PairMetric):
                        columns[key] = one.scores[-1].tolist()
            except Exception as error:
                self._drop(name, error)
        for i, (name, label) in enumerate(zip(names, degradations, strict=True)):
            named = recognised[i] if recognised is not None else None
            scores = {key: values[i] for key, values in columns.items() if key.removesuffix("_lq") not in self.missing}
            self.photos.append(PhotoScore(name, self._seen[name, label], label, named, scores))
            self._seen[name, label] += 1

    def _drop(self, name: str, error: Exception) -> None:
        """Leave a metric out, whatever its library raised; the user's own mistakes still end all."""
        if isinstance(error, DaclipError) and not isinstance(error, MetricUnavailableError):
            raise error
        known = isinstance(error, MetricUnavailableError)
        self.missing[name] = str(error) if known else f"it failed with {type(error).__name__}: {one_line(error)}"
        for photo in self.photos:
            for key in (name, f"{name}_lq"):
                photo.scores.pop(key, None)

    def sets(self, with_lq: bool) -> dict[str, float]:
        """Scores of the whole set."""
        found: dict[str, float] = {}
        for name, metric in self._present():
            if isinstance(metric, PairMetric):
                continue
            try:
                if with_lq:
                    found[f"{name}_lq"] = float(self.degraded[name].compute())
                found[name] = float(metric.compute())
            except Exception as error:
                self._drop(name, error)
        return found


def summarise(
    photos: Sequence[PhotoScore], draws: int, confidence: float, generator: torch.Generator
) -> dict[str, Any]:
    """Means by label (`per_degradation`), their macro average (`mean`) and bootstrap `intervals` over photos. The rows
    must have equal columns. Infinite scores, such as the PSNR of two equal pictures, are counted (`infinite`) and left
    out of the means. Intervals also have `METRIC_gain`, restored minus degraded."""
    columns = list(photos[0].scores)
    labels = [photo.degradation for photo in photos]
    values = torch.tensor([[photo.scores[key] for key in columns] for photo in photos], dtype=torch.float64)
    per_label: dict[str, dict[str, Any]] = {}
    for label in dict.fromkeys(labels):
        found = values[torch.tensor([other == label for other in labels])]
        means = {
            key: float(mean) if mean.isfinite() else finite_mean(column)
            for key, mean, column in zip(columns, found.mean(0), found.T.tolist(), strict=True)
        }
        per_label[label] = {**means, "count": len(found)}
    mean: dict[str, Any] = {key: finite_mean([row[key] for row in per_label.values()]) for key in columns}
    infinite = {key: count for key, count in zip(columns, values.isinf().sum(0).tolist(), strict=True) if count}
    gained = [key for key in columns if f"{key}_lq" in columns]
    gains = [values[:, [columns.index(key)]] - values[:, [columns.index(f"{key}_lq")]] for key in gained]
    drawn = bootstrap([photo.name for photo in photos], labels, torch.cat([values, *gains], 1), draws, generator)
    named = [*columns, *(f"{key}_gain" for key in gained)]

    def ends(means: Tensor) -> dict[str, tuple[float, float] | None]:
        return {key: interval(means[:, i], confidence) for i, key in enumerate(named)}

    return {
        "per_degradation": per_label,
        "mean": {**mean, "count": len(photos)},
        **({"infinite": infinite} if infinite else {}),
        "intervals": {
            "confidence": confidence,
            "draws": draws,
            "photos": drawn.units,
            "per_degradation": {label: ends(means) for label, means in drawn.per_class.items()},
            "mean": ends(drawn.macro),
        },
    }
