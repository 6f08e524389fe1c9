"""VQ-Rec's codes: optimised product quantization of text features (Ge et al. 2013), by faiss."""

import numpy as np

from musicrec_kit import seeds
from musicrec_kit.params import Refused

ROUNDS = 25  # of turning the space and clustering its parts; faiss's default is 50, and the last change little


def product_codes(matrix: np.ndarray, fitted: np.ndarray, digits: int, values: int, seed: int = 0) -> np.ndarray:
    """Return codes int64 [items, digits] from 0 to values - 1.

    VQ-Rec (Hou et al. 2023, section 3.2.1) writes `OPQ32,IVF1,PQ32x8`: a rotation, the mean taken off, and k-means in
    each of 32 parts. The same is done here step by step.

    Args:
        matrix: float32 [items, dim]; dim is padded with zeros to a multiple of `digits`.
        fitted: bool [items]; the rotation and the centres are learnt from these.
        values: a power of two.

    Raises:
        Refused: fewer items to fit than values, or faiss is not installed.
    """
    try:
        import faiss
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise Refused("sequential.vectors=[codes] needs faiss: pip install 'musicrec-kit[baselines]'") from error
    bits = values.bit_length() - 1
    assert values == 1 << bits, values
    if fitted.sum() < values:
        raise Refused(
            f"sequential.code_values={values}, and {int(fitted.sum())} items with text stand in the training part: "
            "k-means cannot start; set sequential.code_values to a smaller power of two"
        )
    width = -(-matrix.shape[1] // digits) * digits
    rows = np.zeros((len(matrix), width), np.float32)
    rows[:, : matrix.shape[1]] = matrix
    rotation = faiss.OPQMatrix(width, digits)
    rotation.niter = ROUNDS
    # the first is the rotation's own, which it refits in every round
    quantizers = [faiss.ProductQuantizer(width, digits, bits) for _ in range(2)]
    for number, each in enumerate(quantizers):
        each.cp.seed = seeds.child(seed, "product_codes", number) % 2**31
        each.cp.min_points_per_centroid = 1  # few items are said in the results, not on stderr
    rotation.pq, quantizer = quantizers
    with threadpool_limits(
        1
    ):  # the sums of several threads come in another order, and two digits in three change by it
        # faiss 1.15 writes a matrix [dim, dim] into room for [rows, dim]: fewer rows than columns are given again
        rotation.train(np.tile(rows[fitted], (-(-width // int(fitted.sum())), 1)))
        turned = rotation.apply(rows)
        turned -= turned[fitted].mean(axis=0)
        quantizer.train(turned[fitted])
        packed = quantizer.compute_codes(turned)
    found = np.unpackbits(packed, axis=1, bitorder="little")[:, : digits * bits]
    return found.reshape(len(rows), digits, bits) @ (1 << np.arange(bits))
