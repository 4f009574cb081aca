"""End to end: backbone, latent and classifier trained together on the objective. The first method."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from laresa.batch import Batch
from laresa.config import TrialConfig
from laresa.data.dataset import Dataset
from laresa.methods.loop import Loop, Sample
from laresa.methods.parts import base_head, build_optimizer, check_width, epoch_metrics, set_rates
from laresa.methods.watch import freeze, gradient_norms, gradient_shares, watched
from laresa.model import LatentClassifier, build_model, input_statistics
from laresa.objective import Objective, check_tree


class EndToEnd(Loop):
    """A LatentClassifier on images."""

    model: LatentClassifier

    def __init__(self, config: TrialConfig, data: Dataset, device: torch.device | str) -> None:
        super().__init__(config, data, device)
        check_tree(config.parts, data.taxonomy)
        self.labels = self.text()
        self.head = base_head(config)
        self.model = self._build_model()
        self.objective = Objective(config, data.taxonomy, self.text(shown=True).levels).to(self.device)
        if config.latent_dim:
            check_width(self.objective, config.latent_dim, self.head.outputs(data.taxonomy))
        self.optimizer = build_optimizer(config, self.model, self.objective)

    def _build_model(self) -> LatentClassifier:
        config, tree = self.config, self.data.taxonomy
        assert self.labels is not None
        model = build_model(
            config.backbone,
            pretrained=config.pretrained,
            input_size=self.input_size,
            latent_dim=config.latent_dim or self.labels.fine_CD.shape[1],
            outputs=self.head.outputs(tree),
            head=self.head.build,
            fields=config.values(config.backbone),
            stem=config.stem or "default",
            dropout=config.dropout or 0.0,
        )
        if config.pretrained and config.normalisation is None:
            self.mean, self.std = input_statistics(model)
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        model = model.to(self.device)
        return model.to(memory_format=layout)

    # ------------------------------------------------------------------ Loop
    def train_epoch(self, number: int) -> dict[str, float]:
        set_rates(self.config, self.optimizer, number)
        self.objective.train()
        freeze(self.config, self.objective, self.history)
        losses: list[Tensor] = []
        shares: dict[str, float] = {}
        for sample in self.samples(number, self.objective.views):
            batch, z_ND = self._batch(sample, number)
            output = self.objective(batch)
            if not losses and len(output.names) > 1 and watched(self.config, number):
                norm_T = gradient_norms(output.terms_T.unbind(), z_ND)
                shares = gradient_shares(self.objective, output.terms_T.detach(), norm_T)
            self.optimizer.zero_grad(set_to_none=True)
            output.total.backward()
            self.optimizer.step()
            losses.append(torch.cat([output.total.detach().reshape(1), output.terms_T.detach()]))
        return epoch_metrics(self.objective, torch.stack(losses).double().cpu(), number) | shares

    def _batch(self, sample: Sample, number: int) -> tuple[Batch, Tensor]:
        """The batch, and the latents as the model gave them (of both views)."""
        both = sample.images if sample.view is None else torch.cat((sample.images, sample.view))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            logits, z, features_NF = self.model(both)
        n, z_ND, view_ND = len(sample.y_N), z, None
        if sample.view is not None:
            logits, z_ND, view_ND, features_NF = logits[:n], z[:n], z[n:], features_NF[:n]

        def uniform(shape: Sequence[int]) -> Tensor:
            return torch.rand(tuple(shape), generator=sample.generator, device=self.device)

        batch = self.objective.batch(
            logits,
            z_ND,
            sample.y_N,
            features_NF=features_NF,
            view_ND=view_ND,
            target_NC=sample.target_NC,
            epoch=number,
            uniform=uniform,
        )
        return batch, z

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits, z_ND, _ = self.model(images)
        return self.head.log_leaf(logits.float(), self.data.taxonomy), z_ND

    def last_metrics(self) -> dict[str, float]:
        step = self.objective.collapse_step()
        return {} if step is None else {"collapse_step": float(step)}


METHODS = {"end_to_end": EndToEnd}
