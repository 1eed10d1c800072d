"""Two real processes give the released code's losses and gradients of VTC over both batches (golden h), at full size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.goldens_recipe import GOLDENS
from tests.training.processes import both_backends, done, world


@both_backends
@pytest.mark.slow
def test_gradient_of_gathered_features_is_the_exact_sum(tmp_path: Path, backend: str) -> None:
    done(world(2, ["-m", "tests.training.golden_world", str(tmp_path / "out.json")], backend=backend), timeout_s=1200)
    results, golden = (json.loads(path.read_text()) for path in (tmp_path / "out.json", GOLDENS / "h_horovod_itc.json"))
    assert ("hvd_avg" in results) == (backend == "horovod")  # whose own gather averages
    for scheme, total in (("hvd_sum", "sum_vs_single"), ("hvd_avg", "avg_vs_single")):
        if scheme not in results:
            continue
        assert results[scheme]["losses"] == pytest.approx(golden["loss_per_rank_2proc_B2"], rel=1e-5)
        norms = golden["grad_l2_norm"][scheme]
        for name, norm in results[scheme]["norms"].items():
            assert norm == pytest.approx(norms[name] or 0.0, rel=1e-3, abs=1e-6), (scheme, name)
        whole = torch.tensor(list(results[scheme]["norms"].values())).norm().item()
        assert whole == pytest.approx(golden["comparison"][total]["total_norm_a"], rel=1e-4)
    probes, norms = golden["grad_probe_dot"], golden["grad_l2_norm"]
    for scheme, reference in (("hvd_sum", "single"), ("hvd_avg", "hvd_avg")):  # the sum equals one process with all four pairs
        for name, probe in probes[reference].items() if scheme in results else ():
            if norms[scheme][name] and norms[scheme][name] > 1e-6:
                assert results[scheme]["probes"][name] == pytest.approx(probe, abs=2e-3 * norms[scheme][name]), (scheme, name)
