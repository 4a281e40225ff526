"""Newton's method for a batch of L2 logistic regressions on the same rows, each column with its own labels and C.

Directions come from conjugate gradients on the exact Hessian, preconditioned by its diagonal, with the long products in
float32; a rough direction only costs another step. Values, gradients and step lengths are float64 and decide when a
column is done.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MAX_NEWTON_STEPS = 100
MAX_CG_STEPS = 250
MAX_HALVINGS = 40
# The Newton decrement estimates twice the distance to the optimum; below this share of the objective, one last step
# leaves less than float64 resolves.
_DECREMENT_SHARE = 1e-11


class NewtonBatch:
    """M columns solved together on the same rows.

    ``rows`` (N, r) float64, ``rows32`` the same in float32, ``squares32`` their squares; ``Y`` (N, M) in {0, 1},
    ``omega`` (N, M) the weight of each row in each column, ``C`` (M,).
    """

    def __init__(
        self, rows: Tensor, rows32: Tensor, squares32: Tensor, Y: Tensor, omega: Tensor, C: Tensor
    ) -> None:
        self.rows, self.rows32, self.squares32 = rows, rows32, squares32
        self.Y, self.weighted = Y, omega * C
        share = (omega * Y).sum(0) / omega.sum(0)
        self.b = torch.log(share) - torch.log1p(-share)
        self.w = torch.zeros(rows.shape[1], Y.shape[1], dtype=torch.float64, device=rows.device)
        self.eta = self.b.expand(Y.shape).clone()
        self.f = self._values(self.eta, self.w, slice(None))
        self.converged = torch.zeros(Y.shape[1], dtype=torch.bool, device=rows.device)

    def run(self) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
        """w (r, M), b (M,), objective (M,), converged (M,), Newton steps."""
        live = torch.arange(self.Y.shape[1], device=self.Y.device)
        steps = 0
        while len(live) and steps < MAX_NEWTON_STEPS:
            steps += 1
            moved = self._newton_step(live)
            live = live[moved & ~self.converged[live]]
        return self.w, self.b, self.f, self.converged, steps

    def _values(self, eta: Tensor, w: Tensor, which: Any) -> Tensor:
        """The objective: log(1 + exp(-m)) with m the signed margin, written without cancellation."""
        margin = (2 * self.Y[:, which] - 1) * eta
        losses = torch.nn.functional.softplus(-margin, threshold=700)
        return 0.5 * w.square().sum(0) + (self.weighted[:, which] * losses).sum(0)

    def _newton_step(self, live: Tensor) -> Tensor:
        """One step of the columns ``live``; True for those that could lower their objective."""
        p = torch.sigmoid(self.eta[:, live])
        weighted, Y = self.weighted[:, live], self.Y[:, live]
        slope = weighted * torch.where(Y > 0.5, -torch.sigmoid(-self.eta[:, live]), p)
        grad_w = self.w[:, live] + self.rows.T @ slope
        grad_b = slope.sum(0)
        curvature = weighted * p * torch.sigmoid(-self.eta[:, live])
        step_w, step_b, solved = self._direction(grad_w, grad_b, curvature, self.f[live])
        slope0 = (grad_w * step_w).sum(0) + grad_b * step_b
        step_eta = self.rows @ step_w + step_b
        moved = self._line_search(live, step_w, step_b, step_eta, slope0)
        small = -slope0 <= _DECREMENT_SHARE * self.f[live]
        self.converged[live] = solved & small
        return moved

    def _line_search(
        self, live: Tensor, step_w: Tensor, step_b: Tensor, step_eta: Tensor, slope0: Tensor
    ) -> Tensor:
        f0, w0, eta0 = self.f[live], self.w[:, live], self.eta[:, live]
        length = torch.ones_like(f0)
        rounding = 1e-13 * f0.abs()
        value = f0
        for _ in range(MAX_HALVINGS):
            value = self._values(eta0 + length * step_eta, w0 + length * step_w, live)
            # `value <= ...` is False for a value that is not finite.
            good = value <= f0 + 1e-4 * length * slope0 + rounding
            if bool(good.all()):
                break
            length = torch.where(good, length, length / 2)
        length = torch.where(good, length, 0.0)
        self.w[:, live] = w0 + length * step_w
        self.b[live] += length * step_b
        self.eta[:, live] = eta0 + length * step_eta
        self.f[live] = torch.where(good, value, f0)
        return length > 0

    def _direction(
        self, grad_w: Tensor, grad_b: Tensor, curvature: Tensor, f: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The Newton direction by preconditioned conjugate gradients, and whether each column's residual got small."""
        curv32 = curvature.float()
        grad = torch.cat([grad_w, grad_b[None]])
        diagonal = torch.cat([1 + (self.squares32.T @ curv32).double(), curvature.sum(0, keepdim=True)])
        diagonal[-1].clamp_(min=torch.finfo(torch.float64).tiny * 1e16)
        x, residual = torch.zeros_like(grad), -grad
        z = residual / diagonal
        direction, rho = z.clone(), (residual * z).sum(0)
        rho0 = rho.clone()
        # Far from the optimum a rough direction will do; the residual wanted shrinks with the gradient.
        wanted = (rho0 / f).pow(0.25).clamp(min=1e-2, max=0.5).square() * rho0
        live = torch.nonzero(rho0 > 0).flatten()
        for _ in range(MAX_CG_STEPS):
            if not len(live):
                break
            d = direction[:, live]
            product = self._curve(d, curv32[:, live])
            alpha = rho[live] / (d * product).sum(0)
            x[:, live] += alpha * d
            r = residual[:, live] - alpha * product
            residual[:, live] = r
            z = r / diagonal[:, live]
            rho_new = (r * z).sum(0)
            direction[:, live] = z + (rho_new / rho[live]) * d
            rho[live] = rho_new
            live = live[rho_new > wanted[live]]
        return x[:-1], x[-1], rho <= wanted

    def _curve(self, d: Tensor, curv32: Tensor) -> Tensor:
        """The Hessian times d (r + 1, M), the long products in float32."""
        inner = curv32 * (self.rows32 @ d[:-1].float() + d[-1].float())
        return torch.cat([d[:-1] + (self.rows32.T @ inner).double(), inner.sum(0, keepdim=True).double()])
