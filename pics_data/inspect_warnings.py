"""What looks wrong about a folder of shards, in sentences; each with the option of `build` that mends it."""

from collections import Counter
from dataclasses import dataclass

from pics_common.page import number, share
from pics_data.inspect_read import Found
from pics_data.inspect_rules import RULES

MANY_FLAGGED = 0.05  # of the samples
MANY_REJECTED = 0.05  # of what was planned
MANY_MISSING = 0.05  # of the photos
ONE_CATEGORY = 0.5  # of the objects
LICENCE_UNKNOWN = 0.5  # of the samples
SAMPLES_A_PHOTO = 10
RARELY_SEEN = 0.01  # of what training sees


@dataclass(frozen=True, slots=True)
class Finding:
    """A sentence, and what to do: options of `pics-data build`, or ""."""

    says: str
    option: str = ""


def warnings_of(found: Found) -> list[Finding]:
    """All that looks wrong, the samples' own signs first."""
    return [*_of_samples(found), *_of_contents(found), *_of_sources(found), *_of_rejects(found)]


def _of_samples(found: Found) -> list[Finding]:
    flags = [(rule, found.survey.flags[rule.name]) for rule in RULES if rule.name in found.survey.flags]
    return [
        Finding(f"{share(flag.samples, flag.whole)} of the samples {rule.says}", rule.option)
        for rule, flag in sorted(flags, key=lambda pair: -pair[1].samples)
        if flag.samples > MANY_FLAGGED * flag.whole
    ]


def _of_contents(found: Found) -> list[Finding]:
    survey = found.survey
    warnings = []
    categories = survey.counted("category")
    if len(categories) > 1:
        (name, most), *_ = categories.most_common(1)
        if most > ONE_CATEGORY * categories.total():
            says = f"{share(most, categories.total())} of the objects are of one category, {name}"
            warnings.append(Finding(says, f"--not-categories {_quoted(name)}"))
    licences = survey.counted("license")
    if licences[""] > LICENCE_UNKNOWN * licences.total():
        says = f"the licence of {share(licences[''], licences.total())} of the samples is not known"
        warnings.append(Finding(says, "--licenses with words of those that you allow"))
    if not found.num_read and survey.num_samples > SAMPLES_A_PHOTO * survey.num_photos:
        says = f"{number(survey.num_samples / survey.num_photos)} samples were made of each photo: much alike"
        warnings.append(Finding(says, f"--pairs-per-photo {SAMPLES_A_PHOTO // 2}"))
    return warnings


def _quoted(name: str) -> str:
    return f"'{name}'" if " " in name else name


def _of_sources(found: Found) -> list[Finding]:
    splits = found.survey.splits
    warnings = []
    whole = sum(splits.values(), Counter[str]())
    if whole["train"] and not whole["val"]:
        warnings.append(Finding("no sample is kept for validation", "--val-fraction 0.05"))
    weights = found.weights()
    seen = {source: counts["train"] * weights.get(source, 1.0) for source, counts in splits.items()}
    for source, part in sorted(seen.items()):
        if len(seen) > 1 and part < RARELY_SEEN * sum(seen.values()):
            says = f"{source} makes up {share(part, sum(seen.values()))} of what training sees"
            warnings.append(Finding(says, "a higher weight in --mix-weights"))
    return warnings


def _of_rejects(found: Found) -> list[Finding]:
    warnings = []
    if found.rejects is not None:
        failed = {key: entry for key, entry in found.rejects.items() if key[0] not in ("plan", "filter")}
        count = sum(entry.count for entry in failed.values())
        if failed and count > MANY_REJECTED * (found.num_samples + count):
            (_, reason), _ = max(failed.items(), key=lambda item: item[1].count)
            part = share(count, found.num_samples + count)
            says = f"{part} of the planned samples could not be made, most often: {reason}"
            warnings.append(Finding(says, "--retry-rejects once that is mended"))
    counts = (found.recipe or {}).get("counts", {})
    if counts.get("missing", 0) > MANY_MISSING * counts.get("photos", 0):
        says = f"{share(counts['missing'], counts['photos'])} of the photos that the annotations name were not there"
        warnings.append(Finding(says, "--images with the folder that holds them"))
    return warnings
