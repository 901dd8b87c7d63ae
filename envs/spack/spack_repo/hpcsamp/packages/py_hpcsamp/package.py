"""Spack package of hpcsamp, without Horovod: ranks exchange gradients by MPI or torch.distributed.

    spack repo add envs/spack/spack_repo/hpcsamp
    spack env create here && spack env activate here
    spack develop --path "$PWD" py-hpcsamp@=0.1.0 && spack add py-hpcsamp && spack install

Written for Spack 1 (package API 2). Not run with a real Spack: only its dependencies are compared with
setup.cfg (tests/test_package.py).
"""

from spack.package import depends_on, license, variant, version
from spack_repo.builtin.build_systems.python import PythonPackage


class PyHpcsamp(PythonPackage):
    """Sampling parallelism for Bayesian neural networks: a Horovod + MPI batch-job toolkit."""

    homepage = "https://arxiv.org/abs/2604.04736"

    license("BSD-3-Clause")

    version("0.1.0")

    variant("mpi", default=True, description="several ranks, by mpi4py")

    depends_on("python@3.11:", type=("build", "run"))
    depends_on("py-setuptools@77:", type="build")
    depends_on("py-jinja2@3.1:3", type=("build", "run"))
    depends_on("py-h5py@3.11:", type=("build", "run"))
    depends_on("py-h5py+mpi", when="+mpi", type=("build", "run"))
    depends_on("py-matplotlib@3.8:", type=("build", "run"))
    depends_on("py-mpi4py@4", when="+mpi", type=("build", "run"))
    depends_on("py-numpy@1.26:2", type=("build", "run"))
    depends_on("py-packaging", type=("build", "run"))
    depends_on("py-pydantic@2.7:2", type=("build", "run"))
    depends_on("py-rich@13:", type=("build", "run"))
    depends_on("py-scikit-learn@1.4:1", type=("build", "run"))
    depends_on("py-scipy@1.11:", type=("build", "run"))
    depends_on("py-tomli-w@1:", type=("build", "run"))
    depends_on("py-torch@2.6:", type=("build", "run"))
    depends_on("py-torchvision@0.21:", type=("build", "run"))
    depends_on("py-typer@0.15:0", type=("build", "run"))
    depends_on("py-xarray@2024.6:", type=("build", "run"))

    # torch_blue is not a package of Spack: pip install --no-deps 'torch_blue>=1.1,<1.2' beside it
    skip_modules = ["hpcsamp.methods", "hpcsamp.layers"]
