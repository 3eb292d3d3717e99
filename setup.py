"""Only maps folders to packages; everything else about the project is in pyproject.toml."""

from setuptools import find_namespace_packages, setup

# import name -> folder; every folder below becomes a package, and every file in it ships
FOLDERS = {
    "hico": "hico",
    "hico.kernels": "kernels",
    "hico.model": "model",
    "hico.bench": "bench",
}
# measurements are records of the repository, not part of the program
NOT_SHIPPED = ["__pycache__", "*.__pycache__", "results", "results.*"]


def packages_below(name: str, folder: str) -> list[str]:
    inner = find_namespace_packages(folder, exclude=NOT_SHIPPED)
    return [name, *(f"{name}.{package}" for package in inner)]


setup(
    packages=[p for name, folder in FOLDERS.items() for p in packages_below(name, folder)],
    package_dir=FOLDERS,
    package_data={"": ["*"]},
    exclude_package_data={"": ["*.pyc", "*~", "*.orig"]},
)
