"""Publishing: fills in the addresses, says what is still missing, builds and tries what goes out.

    python -m tools.publish                      writes [tool.publish] of pyproject.toml everywhere
    python -m tools.publish --check              says what is still to be done; --tag v1.2.3 as well
    python -m tools.publish --build FOLDER       wheel, sdist and node.zip of what git has committed
    python -m tools.publish --build FOLDER --comfyui PATH     tries node.zip in that ComfyUI too

The three lines of [tool.publish] are the only ones to be filled in by hand.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACEHOLDER = "OWNER"
ADDRESS = (
    r"(?P<host>github\.com|raw\.githubusercontent\.com)/(?:{}/{}|OWNER/ComfyUI-MagCache)(?![\w-])"
)
READMES = ("README.md", "README.zh-CN.md")
_OWN = ("tools/publish.py", "tests/test_publish.py")  # name the placeholder for good


class Wanted:
    """What [tool.publish] says."""

    def __init__(self, text: str) -> None:
        part = text.partition("[tool.publish]")[2].partition("\n[")[0]
        said = dict(re.findall(r'^(\w+) = "(.*?)"', part, re.MULTILINE))
        self.owner, self.repository = said["owner"], said["repository"]
        self.publisher = said["publisher"]

    def written(self, text: str, now: re.Pattern[str]) -> str:
        """A text with the addresses of this repository as they should be."""
        return now.sub(rf"\g<host>/{self.owner}/{self.repository}", text)


def pattern(pyproject: str) -> re.Pattern[str]:
    """The addresses that pyproject.toml's own Repository has now, wherever they stand."""
    found = re.search(r'^Repository = "https://github\.com/([\w-]+)/([\w.-]+)"', pyproject, re.M)
    if found is None:
        raise SystemExit("pyproject.toml names no Repository on github.com")
    return re.compile(ADDRESS.format(*map(re.escape, found.groups())))


def texts() -> Iterator[tuple[Path, str]]:
    """All texts that git holds and that can name an address."""
    listed = subprocess.run(
        ["git", "ls-files", "*.md", "*.toml", "*.py", "*.yml", "*.json", "*.js"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if name not in _OWN and (ROOT / name).is_file():
            yield ROOT / name, (ROOT / name).read_text(encoding="utf-8")


def fill() -> None:
    """Writes what [tool.publish] says everywhere."""
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    wanted, now = Wanted(pyproject), pattern(pyproject)
    for path, text in texts():
        new = wanted.written(text, now)
        if path.name == "pyproject.toml":
            new = re.sub(r'^(PublisherId = )".*?"', rf'\1"{wanted.publisher}"', new, flags=re.M)
        if new != text:
            path.write_text(new, encoding="utf-8")
            print(f"written: {path.relative_to(ROOT)}")


def missing(tag: str | None = None) -> Iterator[str]:
    """What is still to be done, a line each."""
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    wanted, now = Wanted(pyproject), pattern(pyproject)
    for name in ("owner", "repository", "publisher"):
        if getattr(wanted, name) in ("", PLACEHOLDER):
            yield f"pyproject.toml, [tool.publish]: fill in {name}"
    for path, text in texts():
        if wanted.written(text, now) != text:
            yield f"{path.relative_to(ROOT)} has other addresses: run python -m tools.publish"
    if f'PublisherId = "{wanted.publisher}"' not in pyproject:
        yield "pyproject.toml has another PublisherId: run python -m tools.publish"
    for name in READMES:
        for link in relative((ROOT / name).read_text(encoding="utf-8")):
            yield f"{name} links to {link}: package registries need the whole address"
    version = re.findall(r'^version = "(.*)"', pyproject, re.MULTILINE)[0]
    if tag is not None and tag != f"v{version}":
        yield f"the tag is {tag}, the version in pyproject.toml {version}: one of them is wrong"
    if tag is not None:
        changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
        heading = re.search(rf"^## {re.escape(version)}\b(.*)$", changes, re.MULTILINE)
        if heading is None:
            yield f"CHANGELOG.md has no section {version}"
        elif "not released" in heading[1]:
            yield f"CHANGELOG.md says that {version} is not released yet: write the date there"


def relative(text: str) -> list[str]:
    """Links and pictures that lead somewhere only inside the repository."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return [
        link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"https?:|#", link)
    ]


def build(folder: Path, comfyui: Path | None) -> None:
    """Builds all that is published, of the last commit, and tries it."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        clean, unpacked = Path(place, "clean"), Path(place, "unpacked")
        _run("git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(clean))
        _run(sys.executable, "-m", "hatchling", "build", "-d", str(folder), at=clean)
        _pack(clean, folder / "node.zip")
        (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
        for archive in (wheel, sdist):
            _try_installed(archive, Path(place, archive.suffix))
        if comfyui:
            pack = unpacked / "custom_nodes" / "magcache"
            zipfile.ZipFile(folder / "node.zip").extractall(pack)
            _try_nodes(clean, unpacked, comfyui)
    for file in sorted(folder.iterdir()):
        print(f"{file.name}: {file.stat().st_size / 1e6:.1f} MB")


def _pack(clean: Path, archive: Path) -> None:
    """The registry's package: what git holds less .comfyignore, as comfy node pack makes it."""
    command = ["git", "ls-files", "--cached"]
    ignored = [*command, "--ignored", "--exclude-from=.comfyignore"]
    names = [{*_run(*each, at=clean).splitlines()} for each in (command, ignored)]
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in sorted(names[0] - names[1]):
            packed.write(clean / name, name)


def _try_installed(archive: Path, place: Path) -> None:
    """Installs it beside the packages that are here, and runs its command."""
    _run(sys.executable, "-m", "venv", "--without-pip", str(place))
    (packages,) = place.glob("lib/python*/site-packages")
    _run(
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
        "--target", str(packages), str(archive),
    )  # fmt: skip
    here = next(path for path in map(Path, sys.path) if path.name == "site-packages")
    (packages / "beside.pth").write_text(f"{here}\n", encoding="utf-8")
    code = "import magcache, sys; print(magcache.__file__); from magcache.cli import main; main()"
    python = str(place / "bin" / "python")
    said = _run(python, "-I", "-c", code, "plan", "--preset", "flux", "--steps", "28", at=place)
    if str(packages) not in said or "skipped" not in said:
        raise SystemExit(f"{archive.name} does not run: {said}")
    print(f"{archive.name} runs: {said.splitlines()[-1]}")


def _try_nodes(clean: Path, base: Path, comfyui: Path) -> None:
    """Starts a ComfyUI with the unpacked package, and samples a tiny model with its nodes."""
    command = ["-m", "magcache.cli", "doctor", "--cpu", "--family", "flux", "--comfyui"]
    said = _run(
        sys.executable, *command, str(comfyui.resolve()), "--base-directory", str(base), at=clean
    )
    if "custom_nodes/magcache" not in said or "works" not in said:
        raise SystemExit(f"node.zip does not run in {comfyui}:\n{said}")
    print(f"node.zip runs in {comfyui}")


def _run(*command: str, at: Path = ROOT) -> str:
    """What a command says.

    Raises:
        SystemExit: It has failed.
    """
    found = subprocess.run(command, cwd=at, capture_output=True, text=True)
    if found.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{found.stdout}{found.stderr}")
    return found.stdout


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.publish", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--check", action="store_true", help="say what is still to be done")
    parser.add_argument("--tag", help="the release's tag, to compare with the version")
    parser.add_argument("--build", type=Path, metavar="FOLDER", help="build and try")
    parser.add_argument("--comfyui", type=Path, metavar="PATH", help="try node.zip in it")
    arguments = parser.parse_args()
    if arguments.check:
        if left := [*missing(arguments.tag)]:
            raise SystemExit("\n".join(["Not ready to publish:", *(f"- {line}" for line in left)]))
        print("Nothing is missing.")
    elif arguments.build:
        build(arguments.build, arguments.comfyui)
    else:
        fill()


if __name__ == "__main__":
    main()
