// Attention of many rows with tensor cores over a cache in f16.
//
// A block has 64 rows of one query head, a warp 16 of them, and goes over the positions in tiles that two stages of shared
// memory take turns to hold. Scores and sums stay in registers. Queries and weights are split in two f16, hi + lo, so that what
// is rounded is no more than keys and values were: a second product each, which costs less than it saves in accuracy.
// Rows of shared memory are 16 bytes longer than they need: eight neighbouring ones then lie in different banks.

const int FLASH = 128, FLASH_ROWS = 64;

template <int DIM> struct Flash {
    static const int TILE = DIM > 96 ? 32 : 64, STRIDE = DIM + 8, CHUNKS = DIM / 8;
    static const int QUERIES = FLASH_ROWS * STRIDE, STAGE = TILE * STRIDE; // in halves

    /// Queues the copy of a tile's keys or values, zeros behind `end`.
    static INLINE void fetch(u32 to, const u16* from, int tile, int end, int positions) {
        int at = tile % positions;
#pragma unroll
        for (int i = 0; i < TILE * CHUNKS / FLASH; i++) {
            int id = i * FLASH + threadIdx.x, row = id / CHUNKS, chunk = id % CHUNKS, line = at + row;
            line -= line < positions ? 0 : positions;
            bool valid = tile + row < end;
            copy_async16(to + (row * STRIDE + chunk * 8) * 2, from + (valid ? static_cast<long long>(line) * DIM + chunk * 8 : 0), valid);
        }
    }

    static INLINE void run(const float* q, const u16* cache_k, const u16* cache_v, float* out, const Step* step, int offset,
                           int rows, int heads, int kv_heads, int positions, int window, float scale, float cap) {
        static_assert(TILE * CHUNKS % FLASH == 0, "every thread copies as much");
        wait_for_previous();
        u16* hi = reinterpret_cast<u16*>(shared_bytes()); // [64][STRIDE]
        u16* lo = hi + QUERIES;                           // [64][STRIDE]
        u32 keys = shared_address(lo + QUERIES);          // [2][TILE][STRIDE]
        u32 values = keys + 4 * STAGE;                    // [2][TILE][STRIDE]
        int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, head = blockIdx.y;
        // The last rows see most: they begin first.
        int row0 = static_cast<int>(gridDim.x - 1 - blockIdx.x) * FLASH_ROWS;
        int position0 = static_cast<int>(step->first) + offset + row0;
        int end = position0 + min(FLASH_ROWS, rows - row0);
        long long kv = static_cast<long long>(head / (heads / kv_heads)) * positions * DIM;
        const u16 *k = cache_k + kv, *v = cache_v + kv;
        int tile = static_cast<int>(first_seen(position0, window)) / TILE * TILE;
        fetch(keys, k, tile, end, positions);
        fetch(values, v, tile, end, positions);
        copies_commit();

        for (int i = threadIdx.x; i < FLASH_ROWS * DIM / 2; i += FLASH) {
            int row = i / (DIM / 2), d = i % (DIM / 2) * 2;
            const float* from = q + (static_cast<long long>(row0 + row) * heads + head) * DIM + d;
            float a = row0 + row < rows ? from[0] * scale : 0, b = row0 + row < rows ? from[1] * scale : 0;
            u32 pair = floats_to_halves(a, b);
            *reinterpret_cast<u32*>(hi + row * STRIDE + d) = pair;
            *reinterpret_cast<u32*>(lo + row * STRIDE + d) =
                floats_to_halves(a - half_to_float(low_half(pair)), b - half_to_float(high_half(pair)));
        }

        // Lane 4 g + c has rows g and g + 8 of the warp's 16.
        int position = position0 + warp * 16 + lane / 4;
        float sums[DIM / 8][4] = {}, largest[2] = {NOTHING, NOTHING}, total[2] = {0, 0};
        u32 query = shared_address(hi) + ((warp * 16 + lane % 16) * STRIDE + lane / 16 * 8) * 2;
        u32 key = keys + ((lane / 16 * 8 + lane % 8) * STRIDE + lane / 8 % 2 * 8) * 2;
        u32 value = values + ((lane / 8 % 2 * 8 + lane % 8) * STRIDE + lane / 16 * 8) * 2;
        for (int stage = 0; tile < end; tile += TILE, stage ^= 1) {
            if (tile + TILE < end) {
                fetch(keys + (stage ^ 1) * STAGE * 2, k, tile + TILE, end, positions);
                fetch(values + (stage ^ 1) * STAGE * 2, v, tile + TILE, end, positions);
            }
            copies_commit();
            copies_wait<1>();
            __syncthreads();

            float scores[TILE / 8][4] = {};
#pragma unroll
            for (int d = 0; d < DIM; d += 16) {
                u32 a[4], b[4];
                load_matrices(a, query + d * 2);
                u32 rest[4];
                load_matrices(rest, query + (QUERIES + d) * 2);
#pragma unroll
                for (int n = 0; n < TILE / 16; n++) {
                    load_matrices(b, key + (stage * STAGE + n * 16 * STRIDE + d) * 2);
                    u32 left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
                    matrix_multiply(scores[2 * n], a, left);
                    matrix_multiply(scores[2 * n + 1], a, right);
                    matrix_multiply(scores[2 * n], rest, left);
                    matrix_multiply(scores[2 * n + 1], rest, right);
                }
            }
            if (cap > 0) {
#pragma unroll
                for (int n = 0; n < TILE / 8; n++)
#pragma unroll
                    for (int e = 0; e < 4; e++) scores[n][e] = capped(scores[n][e], cap);
            }
            // Most tiles are seen whole by all of the warp's rows.
            int warp_position = position0 + warp * 16;
            if (tile + TILE - 1 > warp_position || (window > 0 && tile <= warp_position + 15 - window)) {
#pragma unroll
                for (int n = 0; n < TILE / 8; n++)
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        int row = position + e / 2 * 8, column = tile + n * 8 + lane % 4 * 2 + e % 2;
                        bool sees = column <= row && (window <= 0 || column > row - window);
                        scores[n][e] = sees ? scores[n][e] : NOTHING;
                    }
            }
            float now[2] = {largest[0], largest[1]};
#pragma unroll
            for (int n = 0; n < TILE / 8; n++)
#pragma unroll
                for (int e = 0; e < 4; e++) now[e / 2] = fmaxf(now[e / 2], scores[n][e]);
            float base[2];
#pragma unroll
            for (int r = 0; r < 2; r++) {
                now[r] = fmaxf(now[r], __shfl_xor_sync(ALL_LANES, now[r], 1));
                now[r] = fmaxf(now[r], __shfl_xor_sync(ALL_LANES, now[r], 2));
                // A row that has seen nothing yet has no largest score; any base will do.
                base[r] = now[r] == NOTHING ? 0.0f : now[r];
                float keep = exp_fast(largest[r] - base[r]);
                largest[r] = now[r];
                total[r] *= keep;
#pragma unroll
                for (int n = 0; n < DIM / 8; n++) sums[n][2 * r] *= keep, sums[n][2 * r + 1] *= keep;
            }
#pragma unroll
            for (int n = 0; n < TILE / 8; n++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    scores[n][e] = exp_fast(scores[n][e] - base[e / 2]);
                    total[e / 2] += scores[n][e];
                }
#pragma unroll
            for (int p = 0; p < TILE / 16; p++) {
                u32 a[4], rest[4], b[4];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float x = scores[2 * p + i / 2][i % 2 * 2], y = scores[2 * p + i / 2][i % 2 * 2 + 1];
                    a[i] = floats_to_halves(x, y);
                    rest[i] = floats_to_halves(x - half_to_float(low_half(a[i])), y - half_to_float(high_half(a[i])));
                }
#pragma unroll
                for (int n = 0; n < DIM / 16; n++) {
                    load_matrices_transposed(b, value + (stage * STAGE + p * 16 * STRIDE + n * 16) * 2);
                    u32 left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
                    matrix_multiply(sums[2 * n], a, left);
                    matrix_multiply(sums[2 * n + 1], a, right);
                    matrix_multiply(sums[2 * n], rest, left);
                    matrix_multiply(sums[2 * n + 1], rest, right);
                }
            }
            __syncthreads();
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            total[r] += __shfl_xor_sync(ALL_LANES, total[r], 1);
            total[r] += __shfl_xor_sync(ALL_LANES, total[r], 2);
            int row = row0 + warp * 16 + lane / 4 + r * 8;
            if (row >= rows) continue;
            float* to = out + (static_cast<long long>(row) * heads + head) * DIM + lane % 4 * 2;
#pragma unroll
            for (int n = 0; n < DIM / 8; n++)
                *reinterpret_cast<float2*>(to + n * 8) = float2{sums[n][2 * r] / total[r], sums[n][2 * r + 1] / total[r]};
        }
    }
};

#define FLASH_KERNEL(DIM, blocks)                                                                                      \
    KERNEL(128, blocks, flash_f16_##DIM, const float* q, const u16* cache_k, const u16* cache_v, float* out,               \
           const Step* step, int offset, int rows, int heads, int kv_heads, int head_dim, int positions, int window,       \
           float scale, float cap) {                                                                                   \
        Flash<DIM>::run(q, cache_k, cache_v, out, step, offset, rows, heads, kv_heads, positions, window, scale, cap);     \
    }

// Arguments as attention_f16; head_dim is that of the name. Grid (ceil(rows / 64), heads), block 128, shared
// 4 (head_dim + 8) (64 + 2 * tile), tile 64 up to head_dim 96 and 32 above: 55296, 67584, 79872, 69632 and 135168 bytes.
FLASH_KERNEL(64, 3)
FLASH_KERNEL(80, 2)
FLASH_KERNEL(96, 2)
FLASH_KERNEL(128, 2)
FLASH_KERNEL(256, 1)
