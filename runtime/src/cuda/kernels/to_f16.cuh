// Rows of activations as the matrix kernels for many tokens read them: f16, divided by a power of two so that none overflows.

/// Of each row scales[row] = the power of two that brings its largest magnitude to 1..2, hi = f16(x / scale) and, where there
/// is a lo, lo = f16(x / scale - hi); columns from width to padded are zero. With `grouped` the columns of each 16 stand as matmul_q8
/// multiplies them: column 4 c + i is at 2 c + i for i = 0, 1 and at 8 + 2 c + i - 2 for i = 2, 3.
/// Grid rows, block 256, shared 32 bytes. padded: width rounded up to a multiple of 64.
KERNEL(256, 4, to_f16, const float* x, u16* hi, u16* lo, float* scales, int rows, int width, int padded, int grouped) {
    wait_for_previous();
    float* space = reinterpret_cast<float*>(shared_bytes());
    int row = blockIdx.x;
    if (row >= rows) return;
    const float* from = x + static_cast<long long>(row) * width;
    float largest = 0;
    for (int i = threadIdx.x; i < width; i += 256) largest = fmaxf(largest, fabsf(from[i]));
    largest = warp_max(largest);
    if (threadIdx.x % WARP == 0) space[threadIdx.x / WARP] = largest;
    __syncthreads();
    for (int w = 0; w < 256 / WARP; w++) largest = fmaxf(largest, space[w]);
    // Within 2^-96 and 2^96, where both it and its inverse are normal numbers.
    u32 exponent = min(max(__float_as_uint(largest) >> 23, 31u), 223u);
    float scale = __uint_as_float(exponent << 23), inverse = __uint_as_float((254 - exponent) << 23);
    if (threadIdx.x == 0) scales[row] = scale;
    for (int i = threadIdx.x; i < padded; i += 256) {
        int within = i % 16, at = grouped ? i - within + within / 4 * 2 + within % 2 + within % 4 / 2 * 8 : i;
        float v = i < width ? from[i] * inverse : 0;
        u16 rounded = float_to_half(v);
        hi[static_cast<long long>(row) * padded + at] = rounded;
        if (lo) lo[static_cast<long long>(row) * padded + at] = float_to_half(v - half_to_float(rounded));
    }
}
