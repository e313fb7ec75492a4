/** What the weight comparison measures: one row per number, with its formula, source and unit. */

/** A measure of an update: where it comes from and its unit. `per` says what it is a property of. */
export interface Metric {
  readonly name: string;
  readonly per: 'step' | 'pair' | 'spectrum';
  readonly formula: string;
  readonly source: string;
  readonly unit: string;
}

/** Every number this module reports. Δ = after − before in float32; σ = singular values of Δ as rows × the rest. */
export const metrics: readonly Metric[] = [
  m('frobeniusNorm', 'step', '‖Δ‖_F', 'the paper’s "energy"', 'weight'),
  m('relativeNorm', 'step', '‖Δ‖_F / ‖W_before‖_F', 'the paper’s "energy"', '1'),
  m('referenceRelativeNorm', 'step', '‖Δ‖_F / ‖W_in‖_F for both steps', 'published script of the paper', '1'),
  m('maxAbs', 'step', 'max |Δ|', '', 'weight'),
  m('moments.mean', 'step', 'E[Δ]', '', 'weight'),
  m('moments.std', 'step', 'sqrt(E[(Δ − E[Δ])²])', '', 'weight'),
  m('moments.skewness', 'step', 'E[(Δ − E[Δ])³] / std³', '', '1'),
  m('moments.kurtosis', 'step', 'E[(Δ − E[Δ])⁴] / std⁴; 3 for a normal distribution', '', '1'),
  m('unchangedFraction', 'step', 'share of entries with equal bits', '', '1'),
  m('belowHalfUlpFraction', 'step', 'share with |Δ| < ½ bf16 spacing of W', 'invisible in a bf16 checkpoint', '1'),
  m('cosine', 'pair', '⟨Δ_in, Δ_rl⟩ / (‖Δ_in‖ ‖Δ_rl‖)', '', '1'),
  m('signAgreement', 'pair', 'share of equal signs where both Δ are not 0', '', '1'),
  m('principalCosines', 'pair', 'cosines between top singular subspaces', 'Björck & Golub 1973', '1'),
  m('spectralNorm', 'spectrum', 'σ1', '', 'weight'),
  m('nuclearNorm', 'spectrum', 'Σσ', '', 'weight'),
  m('stableRank', 'spectrum', '‖Δ‖_F² / σ1²', 'Rudelson & Vershynin 2007', '1'),
  m('participationRatio', 'spectrum', '(Σσ²)² / Σσ⁴', '', '1'),
  m('effectiveRank', 'spectrum', 'exp(H(σ/Σσ))', 'Roy & Vetterli 2007; the paper’s "diversity"', '1'),
  m('conditionNumber', 'spectrum', 'σ1/σk', '', '1'),
  m('logVolume', 'spectrum', 'Σ ln σ of the top values', 'published script of the paper', 'nat'),
  m(
    'floor.edge',
    'spectrum',
    'largest σ1 of simulated rounding noise · (1 + k^(−2/3))',
    'native/ops/rounding.h',
    'weight',
  ),
  m('aboveFloor.rank', 'spectrum', 'number of σ above floor.edge', 'native/ops/rounding.h', '1'),
];
function m(name: string, per: Metric['per'], formula: string, source: string, unit: string): Metric {
  return { name, per, formula, source, unit };
}
