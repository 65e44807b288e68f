"""Packaging of modeling_d2v, the model, and d2v_train, what trains it: `pip install -e ".[train,dev]"` from a clone.

`constraints.txt` names the releases that the tests ran with. The Hugging Face libraries, whose interfaces move, start
at those releases; the other lower bounds are looser, and nothing below the constraints is tested.
"""

from pathlib import Path

from setuptools import find_packages, setup


REQUIRED = [
    "huggingface_hub>=1.31,<3",
    "numpy>=2.0",
    "safetensors>=0.8",
    "torch>=2.6",
    "transformers>=5.23,<6",
]
EXTRAS = {
    "train": [
        "accelerate>=1.15,<2",
        "datasets>=5.2,<6",
        "evaluate>=0.4.6,<0.5",
        "fsspec>=2024.6",
        "psutil>=5.9",
        "pyarrow>=18.0",
        "pyyaml>=6.0",
        "scikit-learn>=1.5",
        "scipy>=1.13",
        "tokenizers>=0.23,<0.24",
        "tqdm>=4.66",
        # Files of sound and images are what most runs read.
        "modeling-d2v[audio,vision]",
    ],
    "analysis": ["captum>=0.9"],
    "audio": ["jiwer>=4.0", "soundfile>=0.12", "soxr>=0.5"],
    "vision": ["pillow>=10.3"],
    "lm": ["kenlm>=0.3"],
    "lora": ["peft>=0.21"],
    "onnx": ["onnx>=1.23", "onnxruntime>=1.32", "onnxscript>=0.7"],
    "plots": ["matplotlib>=3.9"],
    "dev": [
        "calibrated-similarity>=0.1.1",
        "captum>=0.9",
        "markdown-it-py>=3",
        "matplotlib>=3.9",
        "pytest>=8.3",
        "pytest-xdist>=3.6",
        "rsatoolbox>=0.3.2",
        "ruff>=0.9",
        "setuptools>=77.0",
        "tensorboard>=2.18",
    ],
}

setup(
    name="modeling-d2v",
    version="0.1.0",
    description="data2vec 1.0 and 2.0 for Hugging Face transformers: pretrain one encoder on speech, images and text",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=[
        *find_packages(include=["modeling_d2v", "modeling_d2v.*"]),
        *find_packages("recipes", include=["d2v_train", "d2v_train.*"]),
    ],
    package_dir={"d2v_train": "recipes/d2v_train"},
    package_data={
        "d2v_train": ["configs/*.yaml", "configs/accelerate/*.yaml"],
        "d2v_train.alignment.report": ["*.css"],
        "d2v_train.data": ["builtin_files/*.csv", "builtin_files/*.flac", "builtin_files/*.md"],
    },
    entry_points={"console_scripts": ["d2v = d2v_train.programs.cli:main"]},
    python_requires=">=3.11",
    install_requires=REQUIRED,
    extras_require=EXTRAS,
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX",  # locks and signals of the training programs
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
