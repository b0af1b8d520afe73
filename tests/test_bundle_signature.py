import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from hostile_bundles import files_of, sealed, write_folder, write_zip
from tiny_tflite import SHAPE, samples, tiny_tflite

import keras_micronets
from keras_micronets.edge import EnsembleRunner, Manifest, verify
from keras_micronets.edge.bundle import signature
from keras_micronets.edge.cli import COMMANDS, main
from keras_micronets.export import BundleMember, write_bundle

PEM = serialization.Encoding.PEM
OPENSSL = shutil.which("openssl")
FORMS = pytest.mark.parametrize("write", [write_folder, write_zip])


def private_pem(key, password=None):
    encryption = serialization.NoEncryption()
    if password:
        encryption = serialization.BestAvailableEncryption(password)
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, encryption)


def public_pem(key):
    kind = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(PEM, kind)


KEY, OTHER = (
    ed25519.Ed25519PrivateKey.from_private_bytes(b * 32) for b in (b"a", b"b")
)
PRIVATE, PUBLIC = private_pem(KEY), public_pem(KEY)


def write_signed(path, **options):
    return write_bundle(path, [BundleMember("a", tiny_tflite())], **options)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("signed") / "bundle"
    return write_signed(path, signing_key=PRIVATE)


@pytest.fixture(scope="module")
def contents(original):
    return files_of(original)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "bundle"


@pytest.fixture
def public(tmp_path):
    (tmp_path / "public.pem").write_bytes(PUBLIC)
    return str(tmp_path / "public.pem")


@FORMS
def test_signed_bundle_is_read(write, path, contents, original):
    write(path, contents)
    for key in (PUBLIC, None):
        assert verify(path, public_key=key) == Manifest.read(path, public_key=key)
    with (
        EnsembleRunner(path, public_key=PUBLIC) as runner,
        EnsembleRunner(original) as other,
    ):
        np.testing.assert_array_equal(
            runner.predict(samples()), other.predict(samples())
        )


def test_same_key_same_bytes(path, contents, tmp_path):
    key = tmp_path / "private.pem"
    key.write_bytes(PRIVATE)
    assert files_of(write_signed(path, signing_key=key)) == contents
    unsigned = {*contents} - {*files_of(write_signed(path))}  # replaces the signed one
    assert unsigned == {"manifest.sig"}


def not_signed(contents):
    return {n: data for n, data in contents.items() if n != "manifest.sig"}


def other_manifest(contents):
    return sealed(contents, contents["manifest.json"].replace(b'"a"', b'"b"'))


def without_prefix(contents):
    return contents | {"manifest.sig": KEY.sign(contents["manifest.json"])}


def by_another(contents):
    made = signature.sign(contents["manifest.json"], signing_key=private_pem(OTHER))
    return contents | {"manifest.sig": made}


def cut_off(contents):
    return contents | {"manifest.sig": contents["manifest.sig"][:-1]}


def long(contents):
    return contents | {"manifest.sig": bytes(5000)}


def no_manifest(contents):
    return sealed(contents, b"no manifest")


CHANGES = [other_manifest, without_prefix, by_another, cut_off, no_manifest]


@FORMS
@pytest.mark.parametrize("change", [not_signed, long, *CHANGES])
def test_rejected_bundles(write, path, contents, change, monkeypatch):
    """It is rejected before the manifest is parsed."""
    write(path, change(contents))
    monkeypatch.setattr(Manifest, "from_json", None)
    monkeypatch.setattr(signature, "checksum", None)
    message = "signed by the owner" if change in CHANGES else "Expected a signed bundle"
    for read in (EnsembleRunner, verify, Manifest.read):
        with pytest.raises(ValueError, match=message):
            read(path, public_key=PUBLIC)


@pytest.mark.parametrize("change", [not_signed, long, by_another, cut_off])
def test_without_a_public_key_signatures_are_ignored(path, contents, change):
    verify(write_folder(path, change(contents)))
    with pytest.raises(ValueError, match=r"manifest\.sha256"):
        verify(write_folder(path, contents | {"manifest.sha256": b""}))


def test_a_signed_manifest_is_validated(path, contents):
    changed = sealed(
        contents, contents["manifest.json"].replace(b'sion": 1', b'sion": 99')
    )
    data = changed["manifest.json"]
    changed["manifest.sig"] = signature.sign(data, signing_key=PRIVATE)
    write_folder(path, changed)
    with pytest.raises(ValueError, match=r"manifest\.json: .*format_version=99"):
        verify(path, public_key=PUBLIC)
    write_folder(path, contents | {"requirements.txt": b"other"})
    with pytest.raises(ValueError, match=r"a modified 'requirements\.txt'"):
        EnsembleRunner(path, public_key=PUBLIC)


# Keys


RSA = rsa.generate_private_key(65537, 1024)
NO_KEYS = ["absent.pem", ".", b"", b"junk", b"\xff" * 99, private_pem(KEY, b"password")]


@pytest.mark.parametrize("key", [*NO_KEYS, PUBLIC, private_pem(RSA)])
def test_no_private_key(path, key):
    with pytest.raises(ValueError, match="Expected an Ed25519 private key in PEM, not"):
        write_signed(path, signing_key=key)
    assert not path.exists()


@pytest.mark.parametrize("key", [*NO_KEYS, PRIVATE, public_pem(RSA)])
def test_no_public_key(original, key):
    with pytest.raises(ValueError, match="Expected an Ed25519 public key in PEM"):
        EnsembleRunner(original, public_key=key)


def test_missing_library_is_named(original, path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    with pytest.raises(ValueError, match="pip install cryptography"):
        write_signed(path, signing_key=PRIVATE)
    with pytest.raises(ValueError, match="pip install cryptography"):
        verify(original, public_key=PUBLIC)
    verify(original)


def openssl(*arguments, cwd):
    command = [OPENSSL, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.mark.skipif(not OPENSSL, reason="needs openssl")
def test_keys_and_checks_of_openssl(path, tmp_path):
    made = openssl("genpkey", "-algorithm", "ed25519", "-out", "k.pem", cwd=tmp_path)
    given = openssl("pkey", "-in", "k.pem", "-pubout", "-out", "p.pem", cwd=tmp_path)
    assert (made.returncode, given.returncode) == (0, 0)
    write_signed(path, signing_key=tmp_path / "k.pem")
    verify(path, public_key=tmp_path / "p.pem")
    signed = signature.PREFIX + (path / "manifest.json").read_bytes()
    (tmp_path / "signed").write_bytes(signed)
    check = ["pkeyutl", "-verify", "-pubin", "-inkey", "p.pem", "-rawin"]
    check += ["-in", "signed", "-sigfile", "bundle/manifest.sig"]
    checked = openssl(*check, cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr


# The command line


#: Arguments that each command needs besides the bundle.
BROKER = ["--broker", "127.0.0.1:1"]  # without a listener
ARGUMENTS = {
    "predict": ["x.npy"],
    "bench": ["--repeats", "1"],
    "verify": [],
    "node": BROKER,
    "ask": ["x.npy", *BROKER],
}


def run_command(command, tmp_path, public):
    np.save(tmp_path / "x.npy", samples(2))
    asked = ["--bundle", "bundle", "--public-key", public]
    return main([command, *ARGUMENTS[command], *asked], path=tmp_path / "trusted")


@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_every_command_rejects_unsigned_bundles(
    path, contents, public, tmp_path, capsys, monkeypatch, command
):
    monkeypatch.chdir(tmp_path)
    write_folder(path, not_signed(contents))
    assert run_command(command, tmp_path, public) == 2
    assert "error: Expected a signed bundle" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["predict", "bench", "verify"])
def test_commands_accept_signed_bundles(
    path, contents, public, tmp_path, monkeypatch, command
):
    monkeypatch.chdir(tmp_path)
    write_folder(path, contents)
    assert run_command(command, tmp_path, public) == 0


def test_output_of_verify(path, contents, public, capsys):
    write_folder(path, contents)
    assert main(["verify"], path=path) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert f"{len(contents) - 3} files, all as they were exported" in lines[0]
    assert lines[1].endswith(Manifest.read(path).digest)
    assert last == "signature: there, not checked without --public-key"
    main(["verify", "--bundle", str(path), "--public-key", public], path="other")
    assert f"signature: by the owner of {public}\n" in capsys.readouterr().out
    (path / "manifest.sig").unlink()
    main(["verify"], path=path)
    assert "signature: none\n" in capsys.readouterr().out


def test_a_bundle_does_not_vouch_for_itself(path, contents, public, capsys):
    write_folder(path, contents)
    for itself in ([], ["--bundle", f"{path}/../bundle"]):
        with pytest.raises(SystemExit, match="2"):
            main(["verify", "--public-key", public, *itself], path=path)
        assert "with --bundle OTHER" in capsys.readouterr().err


def run(*arguments, **options):
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, **options)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def other(path, contents):
    """Return a bundle with harmful code; the signature matches its manifest."""
    harm = f"open({str(path.with_name('harm'))!r}, 'w')\n".encode()
    write_folder(path, contents)
    (path / "numpy.py").write_bytes(harm)
    (path / "__main__.py").write_bytes(harm)
    return path


def test_trusted_bundle_runs_the_models_of_another(original, other, public, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, *SHAPE), "float32"))
    arguments = ["predict", "x.npy", "--bundle", other, "--public-key", public]
    code, _, stderr = run("-I", original, *arguments, cwd=tmp_path)
    assert (code, "a modified '__main__.py'" in stderr) == (2, True), stderr
    shutil.copy(original / "__main__.py", other / "__main__.py")
    code, out, stderr = run("-I", original, *arguments, cwd=tmp_path)
    assert (code, len(out.splitlines())) == (0, 2), stderr
    code, _, stderr = run("-I", original, "verify", *arguments[2:], cwd=tmp_path)
    assert (code, "numpy.py" in stderr) == (2, True), stderr
    assert not (tmp_path / "harm").exists()
    run("-I", other, "verify")
    assert (tmp_path / "harm").exists()  # it would have done harm


def test_installed_command_needs_no_tensorflow(original, public, tmp_path):
    """As after `pip install --no-deps`: the rest is only imported where used."""
    np.save(tmp_path / "x.npy", samples(2))
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('keras', 'tensorflow', 'scipy', "
        "'sklearn', 'flatbuffers', 'threadpoolctl', 'tensorflow_model_optimization')));"
        "from keras_micronets.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    root = Path(keras_micronets.__file__).parents[1]
    arguments = ["predict", original, tmp_path / "x.npy", "--public-key", public]
    status, out, stderr = run("-c", code, *arguments, cwd=root)
    assert (status, len(out.splitlines())) == (0, 2), stderr
