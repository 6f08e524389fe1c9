"""Item tokenizers: features -> codes, one integer per level and stream.

Symbols of the MusicRec paper, their names here, and shapes (b items of a batch, k modalities, N codes, width d):

| symbol | name | shape |
|---|---|---|
| x_t, x_i (eq. 2) | `Items.features[modality]` | [b, d_m] |
| z_t, z_i (eq. 2) | output of `SharedSpecific.encoders` | [b, d] |
| z = [z_t; z_i], r_0^e (eq. 3) | `SharedSpecific.latents` | [b, k d] |
| C_l^e, e_i (eq. 3) | `SplitResidual.shared[l]` | [N, k d] |
| C_l^T, C_l^I (eq. 4-5) | `SplitResidual.specific[modality][l]` | [N, d] |
| c_l^e, c_l^T, c_l^I | columns of `Split.codes[modality]` | [b, L_e + L_c] |
| r_l | `residual` in `residual.quantize` | [b, k d] or [b, d] |
| L_e, L_c, N, mu, tau, alpha, beta | `shared_levels`, `specific_levels`, `codes`, `mu`, `tau`, `alpha`, `beta` | |
| z-hat_e (eq. 6) | `Split.shared` | [b, k d] |
| z-hat_t, z-hat_i (eq. 6) | parts of `Split.vector`; `Tokenizer.vectors_of` | [b, d] |
| x-hat (eq. 7) | output of `SharedSpecific.decoders` | [b, d_m] |
| sg[.] | `.detach()` | |
| L_RQ (eq. 8-9) | `losses.quantization_loss`, `split_residual.over_levels` | |
| L_Recon (eq. 9) | `losses.reconstruction_loss` | |
| L_align (eq. 10) | `losses.alignment_loss` | |
| L_relation (eq. 11) | `losses.relation_loss` | |
| L_Tokenizer (eq. 12) | `fitting.total_loss` | |
| z_cf | `Items.cf` | [b, d_cf] |
"""

from musicrec_kit.tokenizers.codes import ItemCodes
from musicrec_kit.tokenizers.fitting import fit, load
from musicrec_kit.tokenizers.health import CollapsedError, usage
from musicrec_kit.tokenizers.tokenizer import Tokenizer

__all__ = ["CollapsedError", "ItemCodes", "Tokenizer", "fit", "load", "usage"]
