"""Newton's method for a batch of L2 logistic regressions on the same rows, each with its own labels and C.

``propose`` solves them in a float32 basis, to a few parts in ten million of the objective. ``refine`` goes on from there
with float64 values, gradients and step lengths on the exact rows, the basis only proposing directions, so the optimum is
that of float64. Directions come from conjugate gradients on the Hessian, preconditioned by its diagonal; a rough one
only costs another step. State is kept a problem a row, since thin products are several times faster in that layout.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from strataprobe.probes.basis import Basis, StandardRows

MAX_NEWTON_STEPS = 100
MAX_REFINEMENTS = 15
MAX_CG_STEPS = 250
MAX_HALVINGS = 40
# How far from the optimum a problem may end, as a share of its objective: the Newton decrement estimates twice that
# distance, and one last step is taken below it. A last step from here leaves less than float64 resolves ...
EXACT = 1e-11
# ... and from here about what float32 products resolve.
SINGLE = 1e-7
_ROUNDING = {torch.float32: 1e-8, torch.float64: 1e-13}
# Rows whose float32 products are summed at a time.
_CHUNK_ROWS = 4096


@dataclass
class Problems:
    """M problems: ``Y`` (M, N) in {0, 1}, ``weighted`` (M, N) C times each row's weight, ``offset`` (M, N) or None."""

    Y: Tensor
    weighted: Tensor
    offset: Tensor | None

    def values(self, eta: Tensor, norms: Tensor, which: Tensor) -> Tensor:
        """Objectives: log(1 + exp(-m)) with m the signed margin, written without cancellation; norms are ||w||^2."""
        margin = (2 * self.Y[which] - 1) * eta
        losses = torch.nn.functional.softplus(-margin, threshold=700)
        return 0.5 * norms + (self.weighted[which] * losses).sum(1)

    def slopes(self, eta: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        """First and second derivatives (m, N) of the losses with respect to the logits."""
        p, q = torch.sigmoid(eta), torch.sigmoid(-eta)
        weighted = self.weighted[which]
        return weighted * torch.where(self.Y[which] > 0.5, -q, p), weighted * p * q


@dataclass
class State:
    """Where M problems are: logits ``eta`` (M, N), ``b`` (M,), objective ``f`` (M,), ``converged`` (M,)."""

    eta: Tensor
    b: Tensor
    f: Tensor
    converged: Tensor
    n_steps: int = 0


def start(problems: Problems, omega: Tensor) -> State:
    """No weights, and the intercept at which the mean logit is that of the share of positives."""
    total = omega.sum(1)
    share = (omega * problems.Y).sum(1) / total
    b = torch.log(share) - torch.log1p(-share)
    eta = b[:, None].expand(problems.Y.shape).clone()
    if problems.offset is not None:
        b = b - (omega * problems.offset).sum(1) / total
        eta = b[:, None] + problems.offset
    everything = torch.arange(len(b), device=b.device)
    f = problems.values(eta, torch.zeros_like(b), everything)
    return State(eta, b, f, torch.zeros(len(b), dtype=torch.bool, device=b.device))


class Directions:
    """Newton directions in a basis: the products of its rows that conjugate gradients need, in float32."""

    def __init__(self, basis: Basis) -> None:
        self.basis, self.rows = basis, basis.rows
        self._squares = self.rows.square() if basis.wide else None
        self._inverse = None if self._squares is None else _inverse_where_sure(self._squares.sum(0).double())

    def forward(self, w: Tensor) -> Tensor:
        """w (M, r) float64 times the rows, (M, N) float64."""
        return (w.float() @ self.rows.T).double()

    def backward(self, values: Tensor) -> Tensor:
        """values (M, N) times the rows (N, r), float32 products summed in float64 over chunks: (M, r) float64."""
        total = torch.zeros(len(values), self.rows.shape[1], dtype=torch.float64, device=values.device)
        for begin in range(0, len(self.rows), _CHUNK_ROWS):
            where = slice(begin, begin + _CHUNK_ROWS)
            total += (values[:, where].float() @ self.rows[where]).double()
        return total

    def direction(
        self, grad_w: Tensor, grad_b: Tensor, curvature: Tensor, f: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The Newton direction by preconditioned conjugate gradients, whether each got near, and the residual (M, r)."""
        curvature32 = curvature.float()
        residual = -torch.cat([grad_w, grad_b[:, None]], dim=1)
        diagonal = self._diagonal(curvature, curvature32)
        x = torch.zeros_like(residual)
        direction = self._conditioned(residual, diagonal)
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
            z = self._conditioned(r, diagonal[live])
            rho_new = (r * z).sum(1)
            residual[live] = r
            direction[live] = z + (rho_new / rho[live])[:, None] * d
            rho[live] = rho_new
            live = live[rho_new > wanted[live]]
        return x[:, :-1], x[:, -1], rho <= wanted, residual[:, :-1]

    def lift(self, w: Tensor) -> Tensor:
        """alpha (M, N) whose weights in the basis are w (M, r), where float32 knows the direction well; wide rows only."""
        assert self._inverse is not None
        return self.forward(w * self._inverse)

    def _curve(self, d: Tensor, curvature32: Tensor) -> Tensor:
        """The Hessian times d (M, r + 1)."""
        thin = d.float()
        inner = curvature32 * (thin[:, :-1].contiguous() @ self.rows.T + thin[:, -1:])
        return torch.cat([d[:, :-1] + (inner @ self.rows).double(), inner.sum(1, keepdim=True).double()], dim=1)

    def _diagonal(self, curvature: Tensor, curvature32: Tensor) -> Tensor:
        """(M, r + 1): the Hessian's diagonal in the eigenbasis; for rows not in it, with the mean curvature for each."""
        total = curvature.sum(1, keepdim=True).clamp(min=1e-290)
        if self._squares is not None:
            return torch.cat([1 + (curvature32 @ self._squares).double(), total], dim=1)
        assert self.basis.spectrum is not None
        return torch.cat([1 + total / len(self.rows) * self.basis.spectrum, total], dim=1)

    def _conditioned(self, residual: Tensor, diagonal: Tensor) -> Tensor:
        """residual (M, r + 1) divided by the diagonal in the eigenbasis."""
        if self.basis.wide:
            return residual / diagonal
        assert self.basis.vectors is not None
        turned = residual[:, :-1].float() @ self.basis.vectors / diagonal[:, :-1].float()
        return torch.cat([(turned @ self.basis.vectors.T).double(), residual[:, -1:] / diagonal[:, -1:]], dim=1)


def propose(problems: Problems, state: State, directions: Directions, tolerance: float) -> Tensor:
    """Solve in the basis, from no weights: coordinates (M, r); ``state`` is brought to the solutions."""
    w = torch.zeros(len(state.b), directions.rows.shape[1], dtype=torch.float64, device=state.b.device)
    live = torch.arange(len(state.b), device=state.b.device)
    while len(live) and state.n_steps < MAX_NEWTON_STEPS:
        state.n_steps += 1
        slope, curvature = problems.slopes(state.eta[live], live)
        grad_w, grad_b = w[live] + directions.backward(slope), slope.sum(1)
        step_w, step_b, solved, _ = directions.direction(grad_w, grad_b, curvature, state.f[live])
        step_eta = directions.forward(step_w) + step_b[:, None]
        decrement = -((grad_w * step_w).sum(1) + grad_b * step_b)
        length = search(problems, state, live, (w[live], step_w), step_b, step_eta, decrement, torch.float32)
        w[live] += length[:, None] * step_w
        state.converged[live] = solved & (decrement <= tolerance * state.f[live])
        live = live[(length > 0) & ~state.converged[live]]
    return w


def refine(
    problems: Problems, state: State, Z: StandardRows, basis: Basis, directions: Directions, w: Tensor
) -> Tensor:
    """Go on from weights near ``w`` (M, r) in the basis to the optimum on the exact rows: weights (M, D) float64.

    Wide rows keep their weights as Z^T alpha. There the Newton step is found from the residual of alpha = -slopes, which
    holds at the optimum: no small eigenvalue is divided by. What conjugate gradients left over, which would enter that step
    multiplied by the Hessian, is taken out where eigenvalues are large.
    """
    live = torch.arange(len(state.b), device=state.b.device)
    added = 0.0 if problems.offset is None else problems.offset
    state.converged[:] = False
    alpha = -problems.slopes(state.eta, live)[0] if basis.wide else None
    weights = w if alpha is None else Z.backward(alpha)
    state.eta = Z.forward(weights) + state.b[:, None] + added
    state.f = problems.values(state.eta, weights.square().sum(1), live)
    for _ in range(MAX_REFINEMENTS):
        if not len(live):
            break
        state.n_steps += 1
        slope, curvature = problems.slopes(state.eta[live], live)
        grad_b = slope.sum(1)
        if alpha is not None:
            residual = alpha[live] + slope
            grad, reduced = Z.backward(residual), directions.backward(residual)
        else:
            grad = reduced = weights[live] + Z.backward(slope)
        step_w, step_b, solved, left = directions.direction(reduced, grad_b, curvature, state.f[live])
        if alpha is not None:
            step_alpha = -residual - curvature * (directions.forward(step_w) + step_b[:, None]) - directions.lift(left)
            step_w = Z.backward(step_alpha)
        step_eta = Z.forward(step_w) + step_b[:, None]
        decrement = -((grad * step_w).sum(1) + grad_b * step_b)
        length = search(problems, state, live, (weights[live], step_w), step_b, step_eta, decrement, torch.float64)
        weights[live] += length[:, None] * step_w
        if alpha is not None:
            alpha[live] += length[:, None] * step_alpha
        state.converged[live] = solved & (decrement <= EXACT * state.f[live])
        live = live[(length > 0) & ~state.converged[live]]
    return weights


def search(
    problems: Problems,
    state: State,
    live: Tensor,
    weights: tuple[Tensor, Tensor],
    step_b: Tensor,
    step_eta: Tensor,
    decrement: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """Halve each step until it lowers its objective enough; how much of each was taken, 0 where none does.

    ``weights`` are those now and their step. Logits, intercept and objective are brought to the new place; products
    were made in ``dtype``.
    """
    f0, eta0, (w0, step_w) = state.f[live], state.eta[live], weights
    length = torch.ones_like(f0)
    rounding = _ROUNDING[dtype] * f0.abs()
    for _ in range(MAX_HALVINGS):
        norms = (w0 + length[:, None] * step_w).square().sum(1)
        value = problems.values(eta0 + length[:, None] * step_eta, norms, live)
        # `value <= ...` is False for a value that is not finite.
        good = value <= f0 - 1e-4 * length * decrement + rounding
        if bool(good.all()):
            break
        length = torch.where(good, length, length / 2)
    length = torch.where(good, length, 0.0)
    state.b[live] += length * step_b
    state.eta[live] = eta0 + length[:, None] * step_eta
    state.f[live] = torch.where(good, value, f0)
    return length


def _inverse_where_sure(spectrum: Tensor) -> Tensor:
    """1 / eigenvalue where it is far above float32's rounding, else 0."""
    sure = spectrum > 1e-4 * spectrum.max().clamp(min=1e-290)
    return torch.where(sure, 1.0 / spectrum.clamp(min=1e-290), 0.0)
