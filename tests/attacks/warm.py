"""Imported before the first fork: what every session and command would import again."""

from __future__ import annotations

# A user who may not enter the folder of Python's own files can import none of them later.
import encodings.idna
import encodings.latin_1
import encodings.utf_8_sig

import peft
import scipy.stats
import torch
import transformers

import pytest_divergence.cli.accept
import pytest_divergence.cli.calibrate
import pytest_divergence.cli.doctor
import pytest_divergence.cli.export
import pytest_divergence.cli.promote
import pytest_divergence.cli.report
import pytest_divergence.cli.train
import pytest_divergence.plugin.assertions
import pytest_divergence.plugin.collection
import pytest_divergence.plugin.github
import pytest_divergence.plugin.search
import pytest_divergence.plugin.terminal
import pytest_divergence.plugin.update

LOADED = (encodings, peft, scipy.stats, torch, transformers, pytest_divergence)
