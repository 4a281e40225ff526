"""Newton's method for a batch of L2 logistic regressions on the same rows, each with its own labels and C.

Directions come from conjugate gradients on the exact Hessian, preconditioned by its diagonal, with the long products in
float32; a rough direction only costs another step. Values, gradients and step lengths are float64 and decide when a
problem is done. State is kept a problem a row, since thin products are several times faster in that layout.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_NEWTON_STEPS = 100
MAX_CG_STEPS = 250
MAX_HALVINGS = 40
# How far from the optimum a problem may end, as a share of its objective: the Newton decrement estimates twice that
# distance, and one last step is taken below it. A last step from here leaves less than float64 resolves ...
EXACT = 1e-11
# ... and from here less than float32 products resolve.
_SINGLE = 1e-8
# Rows whose squares are formed at a time.
_CHUNK_ROWS = 4096


class NewtonBatch:
    """M problems solved together on the same rows.

    ``rows`` (N, r) float64, ``rows32`` the same in float32, or both the same float32 tensor; ``Y`` (M, N) in {0, 1},
    ``omega`` (M, N) the weight of each row in each problem, ``C`` (M,), ``offset`` (M, N) what is added to each logit.
    """

    def __init__(
        self,
        rows: Tensor,
        rows32: Tensor,
        Y: Tensor,
        omega: Tensor,
        C: Tensor,
        offset: Tensor | None = None,
        *,
        tolerance: float = EXACT,
    ) -> None:
        self.rows, self.rows32 = rows, rows32
        single = rows.dtype == torch.float32
        self.tolerance = max(tolerance, _SINGLE) if single else tolerance
        self.rounding = 1e-8 if single else 1e-13
        # Squares are kept where they are small: they are read in every Newton step.
        self.squares32 = None if single else rows32.square()
        self.Y, self.weighted = Y, omega * C[:, None]
        share = (omega * Y).sum(1) / omega.sum(1)
        self.b = torch.log(share) - torch.log1p(-share)
        self.w = torch.zeros(len(Y), rows.shape[1], dtype=torch.float64, device=rows.device)
        self.eta = self.b[:, None].expand(Y.shape).clone()
        if offset is not None:
            # The intercept starts where the mean logit is that of the share.
            self.b -= (omega * offset).sum(1) / omega.sum(1)
            self.eta = self.b[:, None] + offset
        everything = torch.arange(len(Y), device=rows.device)
        self.f = self._values(self.eta, self.w, everything)
        self.converged = torch.zeros(len(Y), dtype=torch.bool, device=rows.device)

    def run(self) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
        """w (M, r), b (M,), objective (M,), converged (M,), Newton steps."""
        live = torch.arange(len(self.Y), device=self.Y.device)
        steps = 0
        while len(live) and steps < MAX_NEWTON_STEPS:
            steps += 1
            moved = self._newton_step(live)
            live = live[moved & ~self.converged[live]]
        return self.w, self.b, self.f, self.converged, steps

    def _values(self, eta: Tensor, w: Tensor, which: Tensor) -> Tensor:
        """The objective: log(1 + exp(-m)) with m the signed margin, written without cancellation."""
        margin = (2 * self.Y[which] - 1) * eta
        losses = torch.nn.functional.softplus(-margin, threshold=700)
        return 0.5 * w.square().sum(1) + (self.weighted[which] * losses).sum(1)

    def _newton_step(self, live: Tensor) -> Tensor:
        """One step of the problems ``live``; True for those that could lower their objective."""
        p, q = torch.sigmoid(self.eta[live]), torch.sigmoid(-self.eta[live])
        weighted = self.weighted[live]
        slope = weighted * torch.where(self.Y[live] > 0.5, -q, p)
        grad_w = self.w[live] + self._times_rows(slope)
        grad_b = slope.sum(1)
        step_w, step_b, solved = self._direction(grad_w, grad_b, weighted * p * q, self.f[live])
        slope0 = (grad_w * step_w).sum(1) + grad_b * step_b
        step_eta = (step_w.to(self.rows.dtype) @ self.rows.T).double() + step_b[:, None]
        moved = self._line_search(live, step_w, step_b, step_eta, slope0)
        self.converged[live] = solved & (-slope0 <= self.tolerance * self.f[live])
        return moved

    def _line_search(self, live: Tensor, step_w: Tensor, step_b: Tensor, step_eta: Tensor, slope0: Tensor) -> Tensor:
        """Halve each step until it lowers its objective enough, and take it; False where none does."""
        f0, w0, eta0 = self.f[live], self.w[live], self.eta[live]
        length = torch.ones_like(f0)
        rounding = self.rounding * f0.abs()
        for _ in range(MAX_HALVINGS):
            value = self._values(eta0 + length[:, None] * step_eta, w0 + length[:, None] * step_w, live)
            # `value <= ...` is False for a value that is not finite.
            good = value <= f0 + 1e-4 * length * slope0 + rounding
            if bool(good.all()):
                break
            length = torch.where(good, length, length / 2)
        length = torch.where(good, length, 0.0)
        self.w[live] = w0 + length[:, None] * step_w
        self.b[live] += length * step_b
        self.eta[live] = eta0 + length[:, None] * step_eta
        self.f[live] = torch.where(good, value, f0)
        return length > 0

    def _direction(self, grad_w: Tensor, grad_b: Tensor, curvature: Tensor, f: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The Newton direction by preconditioned conjugate gradients, and whether each residual got small."""
        curvature32 = curvature.float()
        residual = -torch.cat([grad_w, grad_b[:, None]], dim=1)
        diagonal = torch.cat([1 + self._diagonal(curvature32), curvature.sum(1, keepdim=True)], dim=1)
        diagonal[:, -1].clamp_(min=1e-290)
        x = torch.zeros_like(residual)
        direction = residual / diagonal
        rho = (residual * direction).sum(1)
        # Far from the optimum a rough direction will do; the residual wanted shrinks with the gradient.
        wanted = (rho / f).pow(0.25).clamp(min=1e-2, max=0.5).square() * rho
        live = torch.nonzero(rho > 0).flatten()
        for _ in range(MAX_CG_STEPS):
            if not len(live):
                break
            d = direction[live]
            product = self._curve(d, curvature32[live])
            alpha = rho[live] / (d * product).sum(1)
            x[live] += alpha[:, None] * d
            r = residual[live] - alpha[:, None] * product
            z = r / diagonal[live]
            rho_new = (r * z).sum(1)
            residual[live] = r
            direction[live] = z + (rho_new / rho[live])[:, None] * d
            rho[live] = rho_new
            live = live[rho_new > wanted[live]]
        return x[:, :-1], x[:, -1], rho <= wanted

    def _curve(self, d: Tensor, curvature32: Tensor) -> Tensor:
        """The Hessian times d (M, r + 1), the long products in float32."""
        thin = d.float()
        inner = curvature32 * (thin[:, :-1].contiguous() @ self.rows32.T + thin[:, -1:])
        return torch.cat([d[:, :-1] + (inner @ self.rows32).double(), inner.sum(1, keepdim=True).double()], dim=1)

    def _times_rows(self, values: Tensor) -> Tensor:
        """values (M, N) float64 @ rows (N, r), float32 products being summed in float64 over chunks of rows."""
        if self.rows.dtype == torch.float64:
            return values @ self.rows
        total = torch.zeros(len(values), self.rows.shape[1], dtype=torch.float64, device=values.device)
        for start in range(0, len(self.rows), _CHUNK_ROWS):
            where = slice(start, start + _CHUNK_ROWS)
            total += (values[:, where].float() @ self.rows[where]).double()
        return total

    def _diagonal(self, curvature32: Tensor) -> Tensor:
        """What the losses add to the Hessian's diagonal, (M, r) float64."""
        if self.squares32 is not None:
            return (curvature32 @ self.squares32).double()
        total = torch.zeros(len(curvature32), self.rows32.shape[1], dtype=torch.float64, device=curvature32.device)
        for start in range(0, len(self.rows32), _CHUNK_ROWS):
            where = slice(start, start + _CHUNK_ROWS)
            total += (curvature32[:, where] @ self.rows32[where].square()).double()
        return total
