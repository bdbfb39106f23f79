// How many products tensor cores do with nothing else to do: the limit on prompts.

const int RATE_CHAINS = 16;

/// Two f16 of 0.5..1 with any signs. Equal bits would be multiplied with less power, and at a higher clock, than a model's.
INLINE u32 some_halves(u32 n) { return (n * 2654435761u & 0x83ff83ffu) | 0x38003800u; }

/// Each warp runs 16 chains of `rounds` products of [16, 16] and [16, 8], each added to the chain's last sum; sums[thread] = what its
/// lane has of them all. Of lane l a[i] = some_halves(4 l + i), and of chain c b[i] = some_halves(128 + 64 c + 2 l + i).
/// Any grid, block 256, no shared memory. sums: [blocks * 256].
KERNEL(256, 2, tensor_rate, int rounds, float* sums) {
    wait_for_previous();
    u32 lane = threadIdx.x % WARP, a[4], b[RATE_CHAINS][2];
    float d[RATE_CHAINS][4] = {};
#pragma unroll
    for (int i = 0; i < 4; i++) a[i] = some_halves(4 * lane + i);
#pragma unroll
    for (int c = 0; c < RATE_CHAINS; c++)
#pragma unroll
        for (int i = 0; i < 2; i++) b[c][i] = some_halves(128 + 64 * c + 2 * lane + i);
#pragma unroll 1
    for (int round = 0; round < rounds; round++)
#pragma unroll
        for (int c = 0; c < RATE_CHAINS; c++) matrix_multiply(d[c], a, b[c]);
    float sum = 0;
#pragma unroll
    for (int c = 0; c < RATE_CHAINS; c++) sum += d[c][0] + d[c][1] + d[c][2] + d[c][3];
    sums[blockIdx.x * 256 + threadIdx.x] = sum;
}
