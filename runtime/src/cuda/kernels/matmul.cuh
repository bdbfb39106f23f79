// Many tokens times an f16 or q8 matrix with tensor cores: f16 products, f32 sums.
//
// A block has 128 rows of weights, eight panels, and 128 tokens; its four warps 64 rows of 64 tokens each. Weights are the
// operand with 16 rows, a panel each, tokens the one with 8 columns. Four stages of shared memory, filled by asynchronous
// copies straight from the file's panels, one barrier a stage. A warp's 64 x 64 tile takes 128 registers of sums; for each 16 columns it
// loads 4 + 4 (or 8) fragments of 16 x 16 for 32 (or 64) products. Two blocks an SM, 8 warps, are what registers and shared
// memory leave; their products, 16 accumulators apart, cover each other's latency.
//
//   f16   A panel's 16 columns x 16 rows are 512 bytes in a row, which ldmatrix turns into a fragment. Two 16-byte halves a column:
//         they change places in columns 4..8 of each 8, so that the eight rows of a matrix lie in different banks.
//         Tokens come as hi + lo: two products, so that what is rounded is the weights alone, as on the CPU.
//   q8    A fragment of 16 columns takes one 4-byte word a row and thread: group c of 4 columns belongs to the lanes with c.
//         Thus columns are multiplied in another order than they stand, the same for both operands (to_f16's `grouped`).
//         A byte becomes an f16 exactly, times its scale it is rounded once. Rows 0..8 and 8..16 change places in every other pair of
//         groups: 32 different banks.

const int MATMUL = 128, MATMUL_ROWS = 128, MATMUL_TOKENS = 128, MATMUL_STAGES = 4;

/// The tokens' part of a stage, [128][COLUMNS] halves. A token's chunks of 16 bytes change places, so that the same chunks of eight
/// tokens lie in different banks: chunk c of token t is at c ^ turn(t).
template <int COLUMNS> struct Tokens {
    static const int CHUNKS = COLUMNS / 8, BYTES = MATMUL_TOKENS * COLUMNS * 2, AT_ONCE = MATMUL / CHUNKS;

    static INLINE int turn(int token) { return COLUMNS == 64 ? token & 7 : token >> 1 & 3; }

    /// Queues the copy of columns `column`.. of tokens token0..token0 + 128; behind the last one its row again, whose sums are dropped.
    static INLINE void fetch(u32 to, const u16* from, int token0, int tokens, int column, int padded) {
        int token = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
        // AT_ONCE is a multiple of 8: the turn is the same for all of them.
        to += (token * CHUNKS + (chunk ^ turn(token))) * 16;
        from += column + chunk * 8;
#pragma unroll
        for (int i = 0; i < MATMUL_TOKENS / AT_ONCE; i++)
            copy_async16(to + i * AT_ONCE * CHUNKS * 16,
                         from + static_cast<long long>(min(token0 + token + i * AT_ONCE, tokens - 1)) * padded);
    }

    /// What a lane adds to find its row of fragments of 16 tokens from `token`, a multiple of 16, in the first 16 columns.
    static INLINE u32 lane_offset(int token) {
        int lane = threadIdx.x % WARP, own = token + lane / 16 * 8 + lane % 8;
        return (own * CHUNKS + (lane / 8 % 2 ^ turn(own))) * 16;
    }

    /// Columns 16 k.. of the 16 tokens n after, as two operands of 8.
    static INLINE void load(u32 (&left)[2], u32 (&right)[2], u32 from, u32 lane_offset, int n, int k) {
        u32 b[4];
        load_matrices(b, from + (lane_offset ^ k << 5) + n * 16 * CHUNKS * 16);
        left[0] = b[0], left[1] = b[1], right[0] = b[2], right[1] = b[3];
    }
};

struct MatmulF16 {
    static const int COLUMNS = 32, PANEL = COLUMNS * 32, BYTES = 8 * PANEL;

    static INLINE int at(int column, int half) { return column * 32 + (half ^ (column >> 2 & 1)) * 16; }

    /// Queues the copy of columns step * COLUMNS.. of panels panel0..panel0 + 8; behind the last one it again; zeros behind
    /// the last column.
    static INLINE void fetch(u32 to, const u8* w, int panel0, int panels, int step, int cols) {
        int panel = threadIdx.x / 64, column = threadIdx.x % 64 / 2, half = threadIdx.x % 2;
        to += panel * PANEL + at(column, half);
        bool valid = step * COLUMNS + column < cols;
        w += valid ? (step * COLUMNS + column) * 32 + half * 16 : 0;
#pragma unroll
        for (int i = 0; i < 4; i++)
            copy_async16(to + i * 2 * PANEL, w + static_cast<long long>(min(panel0 + panel + i * 2, panels - 1)) * cols * 32, valid);
    }

    u32 own;
    INLINE MatmulF16(int panel) {
        int lane = threadIdx.x % WARP;
        own = panel * PANEL + at(lane / 16 * 8 + lane % 8, lane / 8 % 2);
    }

    /// Fragment of panel p of this warp's, columns 16 k.. of the stage.
    INLINE void load(u32 (&a)[4], u32 from, int p, int k) const { load_matrices_transposed(a, from + own + p * PANEL + k * 512); }
};

struct MatmulQ8 {
    static const int COLUMNS = 64, PANEL = Q8_BYTES, BYTES = 8 * PANEL;

    /// Where 4 rows of a group are, behind the scales.
    static INLINE int at(int group, int quarter) { return 64 + group * 64 + (quarter ^ (group & 2)) * 16; }

    static INLINE void fetch(u32 to, const u8* w, int panel0, int panels, int step, int cols) {
        long long panel_bytes = static_cast<long long>(ceil_div(cols, 64)) * Q8_BYTES;
        w += static_cast<long long>(step) * Q8_BYTES;
        int t = threadIdx.x;
        if (t < 32) copy_async16(to + t / 4 * PANEL + t % 4 * 16, w + min(panel0 + t / 4, panels - 1) * panel_bytes + t % 4 * 16);
        int panel = t / 64, group = t / 4 % 16, quarter = t % 4;
        to += panel * PANEL + at(group, quarter);
        w += 64 + group * 64 + quarter * 16;
#pragma unroll
        for (int i = 0; i < 4; i++) copy_async16(to + i * 2 * PANEL, w + min(panel0 + panel + i * 2, panels - 1) * panel_bytes);
    }

    int scales, upper, lower;
    INLINE MatmulQ8(int panel) {
        int g = threadIdx.x % WARP / 4, c = threadIdx.x % 4;
        scales = panel * PANEL + g * 2;
        upper = panel * PANEL + at(c, g / 4) + g % 4 * 4;
        lower = panel * PANEL + at(c, g / 4 + 2) + g % 4 * 4;
    }

    INLINE void load(u32 (&a)[4], u32 from, int p, int k) const {
        int panel = p * PANEL, group = k * 256;
        u32 low = load_shared16(from + scales + panel + k / 2 * 32) * 0x10001u;
        u32 high = load_shared16(from + scales + panel + k / 2 * 32 + 16) * 0x10001u;
        uint2 first = bytes_to_halves(load_shared32(from + upper + panel + group));
        uint2 second = bytes_to_halves(load_shared32(from + lower + panel + group));
        a[0] = multiply_halves(first.x, low), a[2] = multiply_halves(first.y, low);
        a[1] = multiply_halves(second.x, high), a[3] = multiply_halves(second.y, high);
    }
};

/// out = residual ? residual + factor * y : y with y = W (hi + lo) * scales + bias; out and residual [tokens, rows].
template <class E, bool SPLIT>
INLINE void matmul(const u8* w, const u16* hi, const u16* lo, const float* scales, const float* bias, float* out, int rows,
                   int cols, int padded, int tokens, const float* residual, float factor) {
    typedef Tokens<E::COLUMNS> Input;
    const int STAGE = E::BYTES + (SPLIT ? 2 : 1) * Input::BYTES;
    u32 shared = shared_address(shared_bytes()); // [stages][weights, hi, lo]
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int panel0 = blockIdx.x * (MATMUL_ROWS / PANEL_ROWS), panels = ceil_div(rows, PANEL_ROWS);
    int token0 = blockIdx.y * MATMUL_TOKENS, steps = ceil_div(cols, E::COLUMNS);
    // This warp's part of the block: four panels, 64 tokens.
    int panel = warp % 2 * 4, token = warp / 2 * 64;
    E weights(panel);
    u32 input = E::BYTES + Input::lane_offset(token);
    auto fetch = [=](int step) {
        if (step < steps) {
            u32 stage = shared + step % MATMUL_STAGES * STAGE;
            E::fetch(stage, w, panel0, panels, step, cols);
            Input::fetch(stage + E::BYTES, hi, token0, tokens, step * E::COLUMNS, padded);
            if (SPLIT) Input::fetch(stage + E::BYTES + Input::BYTES, lo, token0, tokens, step * E::COLUMNS, padded);
        }
        copies_commit();
    };
    wait_for_previous();
#pragma unroll 1
    for (int step = 0; step < MATMUL_STAGES - 1; step++) fetch(step);
    float sums[4][8][4] = {}; // [panel][8 tokens][fragment]
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
        copies_wait<MATMUL_STAGES - 2>();
        // Behind this everybody's copies of this step are there, and nobody reads the stage that is filled next.
        __syncthreads();
        fetch(step + MATMUL_STAGES - 1);
        u32 stage = shared + step % MATMUL_STAGES * STAGE;
#pragma unroll
        for (int k = 0; k < E::COLUMNS / 16; k++) {
            u32 a[4][4];
#pragma unroll
            for (int p = 0; p < 4; p++) weights.load(a[p], stage, p, k);
#pragma unroll
            for (int part = 0; part < (SPLIT ? 2 : 1); part++)
#pragma unroll
                for (int n = 0; n < 4; n++) {
                    u32 left[2], right[2];
                    Input::load(left, right, stage + part * Input::BYTES, input, n, k);
#pragma unroll
                    for (int p = 0; p < 4; p++) {
                        matrix_multiply(sums[p][2 * n], a[p], left);
                        matrix_multiply(sums[p][2 * n + 1], a[p], right);
                    }
                }
        }
    }
    // Through shared memory, so that a warp writes 128 bytes of a token's row at a time.
    const int STRIDE = MATMUL_ROWS + 4;
    float* tile = reinterpret_cast<float*>(shared_bytes()); // [tokens][STRIDE]
    float* own = tile + (token + lane % 4 * 2) * STRIDE + panel * PANEL_ROWS + lane / 4;
    __syncthreads();
#pragma unroll
    for (int p = 0; p < 4; p++)
#pragma unroll
        for (int n = 0; n < 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) own[(n * 8 + e % 2) * STRIDE + p * PANEL_ROWS + e / 2 * 8] = sums[p][n][e];
    __syncthreads();
    int row = blockIdx.x * MATMUL_ROWS + threadIdx.x;
    if (row >= rows) return;
    float added = bias ? bias[row] : 0;
#pragma unroll 4
    for (int t = 0; t < min(MATMUL_TOKENS, tokens - token0); t++) {
        float y = tile[t * STRIDE + threadIdx.x] * scales[token0 + t] + added;
        long long to = static_cast<long long>(token0 + t) * rows + row;
        out[to] = residual ? residual[to] + factor * y : y;
    }
}

// Grid (ceil(rows / 128), ceil(tokens / 128)), block 128, shared 98304 bytes for f16 and 100352 for q8. hi (and lo): [tokens,
// padded] as to_f16 makes them, at multiples of 16 bytes, grouped for q8.
KERNEL(128, 2, matmul_f16, const u8* w, const u16* hi, const u16* lo, const float* scales, const float* bias, float* out,
       int rows, int cols, int padded, int tokens, const float* residual, float factor) {
    matmul<MatmulF16, true>(w, hi, lo, scales, bias, out, rows, cols, padded, tokens, residual, factor);
}

KERNEL(128, 2, matmul_q8, const u8* w, const u16* hi, const u16* lo, const float* scales, const float* bias, float* out,
       int rows, int cols, int padded, int tokens, const float* residual, float factor) {
    matmul<MatmulQ8, false>(w, hi, lo, scales, bias, out, rows, cols, padded, tokens, residual, factor);
}
