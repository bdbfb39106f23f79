// Sums and maxima over a warp or a block, in one fixed order, so that two runs give the same bits.

/// Sum over the lanes that differ in the bits from LOW (a power of two) up; each of them gets it.
template <int LOW = 1> INLINE float warp_sum(float x) {
#pragma unroll
    for (int bit = WARP / 2; bit >= LOW; bit /= 2) x += __shfl_xor_sync(ALL_LANES, x, bit);
    return x;
}

/// Minus infinity: the maximum of nothing.
#define NOTHING __uint_as_float(0xff800000u)

INLINE float warp_max(float x) {
#pragma unroll
    for (int bit = WARP / 2; bit > 0; bit /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, bit));
    return x;
}

/// Sum over a block of WARPS whole warps; every thread gets it. `space` has WARPS floats; a barrier must lie between two uses.
template <int WARPS> INLINE float block_sum(float x, float* space) {
    x = warp_sum(x);
    if (threadIdx.x % WARP == 0) space[threadIdx.x / WARP] = x;
    __syncthreads();
    float sum = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) sum += space[w];
    return sum;
}
