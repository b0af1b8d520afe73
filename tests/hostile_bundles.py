"""Hostile bundles for the tests."""

import hashlib
import json
import zipfile


def files_of(directory):
    paths = (path for path in directory.rglob("*") if path.is_file())
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in paths}


def edited(contents, change):
    """Return the files with another manifest and a matching checksum."""
    manifest = json.loads(contents["manifest.json"])
    change(manifest)
    return sealed(contents, (json.dumps(manifest, indent=2) + "\n").encode())


def sealed(contents, manifest):
    """Return the files with another manifest, bytes, and its checksum."""
    line = f"{hashlib.sha256(manifest).hexdigest()}  manifest.json\n"
    return contents | {"manifest.json": manifest, "manifest.sha256": line.encode()}


def forged(contents, name, data):
    """Return the files with one replaced, and a matching hash."""
    digest = hashlib.sha256(data).hexdigest()
    changed = edited(contents, lambda m: m["files"].update({name: digest}))
    return changed | {name: data}


def write_folder(path, contents):
    for name, data in contents.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def write_zip(path, contents, *extra, compression=zipfile.ZIP_DEFLATED):
    """Write a zip; `extra` are pairs of a name, or a `ZipInfo`, and bytes."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in [*contents.items(), *extra]:
            archive.writestr(name, data)
    return path


def damaged(data, random):
    """Return the bytes with some of them changed, cut out, cut off or repeated."""
    data = bytearray(data)
    # Half of the positions are near the end, in a zip's table of contents.
    at = random.randrange(len(data) // random.choice([1, 4]))
    at = len(data) - 1 - at
    match random.choice(["change", "change", "change", "cut", "cut off", "repeat"]):
        case "change":
            for position in range(at, min(at + random.choice([1, 1, 4]), len(data))):
                data[position] = random.choice([0, 255, random.randrange(256)])
        case "cut":
            del data[at : at + random.randrange(1, 20)]
        case "cut off":
            del data[at:]
        case "repeat":
            data[at:at] = data[at : at + random.randrange(1, 20)]
    return bytes(data)
