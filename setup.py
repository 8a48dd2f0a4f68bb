"""What pyproject.toml cannot express: checkpoints/ and recipes/ of the repository become part of the package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithShipped(build_py):
    """`build_py` that copies both folders to advgan/shipped/, but for runs; an editable installation has them."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for folder in ("checkpoints", "recipes"):
            destination = Path(self.build_lib) / "advgan/shipped" / folder
            shutil.copytree(folder, destination, dirs_exist_ok=True, ignore=shutil.ignore_patterns("runs", ".*"))


setup(cmdclass={"build_py": BuildWithShipped})
