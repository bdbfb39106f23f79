// Many tokens times an f16 or q8 matrix with tensor cores: f16 products, f32 sums.
//
// Weights are the operand with 16 rows, a panel each, tokens the one with 8 columns. Stages of shared memory are filled by
// asynchronous copies straight from the file's panels, one barrier a stage. Two shapes of a block:
//
//   Wide     128 rows, 128 tokens; its four warps 64 rows of 64 tokens each, in 128 registers of sums. For each 16 columns a warp
//            loads 4 + 4 (or 8) fragments of 16 x 16 for 32 (or 64) products. Two blocks an SM, 8 warps, are what registers and
//            shared memory leave; their products, 16 accumulators apart, cover each other's latency.
//   Narrow   32 rows, 32 tokens: few tokens are bound by memory, and more blocks read more of it at a time. Its four
//            warps have all of it, each every fourth 16 columns; their sums are added in order.
//
//   f16   A panel's 16 columns x 16 rows are 512 bytes in a row, which ldmatrix turns into a fragment. Two 16-byte halves a column:
//         they change places in columns 4..8 of each 8, so that the eight rows of a matrix lie in different banks.
//         Tokens come as hi + lo: two products, so that what is rounded is the weights alone, as on the CPU.
//   q8    A fragment of 16 columns takes one 4-byte word a row and thread: group c of 4 columns belongs to the lanes with c.
//         Thus columns are multiplied in another order than they stand, the same for both operands (to_f16's `grouped`).
//         A byte becomes an f16 exactly, times its scale it is rounded once. Rows 0..8 and 8..16 change places in every other pair of
//         groups: 32 different banks.

const int MATMUL = 128;

/// A warp has PANELS panels and PAIRS times 16 tokens of the block's.
struct Wide {
    static const int PANELS = 4, PAIRS = 4, ROW_WARPS = 2, TOKEN_WARPS = 2, COLUMN_WARPS = 1, STAGES = 4;
    static const int BLOCK_PANELS = PANELS * ROW_WARPS, TOKENS = 16 * PAIRS * TOKEN_WARPS;
};

struct Narrow {
    static const int PANELS = 2, PAIRS = 2, ROW_WARPS = 1, TOKEN_WARPS = 1, COLUMN_WARPS = 4, STAGES = 6;
    static const int BLOCK_PANELS = PANELS * ROW_WARPS, TOKENS = 16 * PAIRS * TOKEN_WARPS;
};

/// The tokens' part of a stage, [TOKENS][COLUMNS] halves. A token's chunks of 16 bytes change places, so that the same chunks of eight
/// tokens lie in different banks: chunk c of token t is at c ^ turn(t).
template <int TOKENS, int COLUMNS> struct Tokens {
    static const int CHUNKS = COLUMNS / 8, BYTES = TOKENS * COLUMNS * 2, AT_ONCE = MATMUL / CHUNKS;

    static INLINE int turn(int token) { return COLUMNS == 64 ? token & 7 : token >> 1 & 3; }

    /// Queues the copy of columns `column`.. of tokens from token0 on; behind the last one its row again, whose sums are dropped.
    static INLINE void fetch(u32 to, const u16* from, int token0, int tokens, int column, int padded) {
        int token = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
        // AT_ONCE is a multiple of 8: the turn is the same for all of them.
        to += (token * CHUNKS + (chunk ^ turn(token))) * 16;
        from += column + chunk * 8;
#pragma unroll
        for (int i = 0; i < TOKENS / AT_ONCE; i++)
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

template <int PANELS, int COLUMNS_A_STAGE> struct MatmulF16 {
    static const int COLUMNS = COLUMNS_A_STAGE, PANEL = COLUMNS * 32, BYTES = PANELS * PANEL;

    static INLINE int at(int column, int half) { return column * 32 + (half ^ (column >> 2 & 1)) * 16; }

    /// Queues the copy of columns step * COLUMNS.. of panels from panel0 on; behind the last one it again; zeros behind the last
    /// column.
    static INLINE void fetch(u32 to, const u8* w, int panel0, int panels, int step, int cols) {
#pragma unroll
        for (int i = 0; i < PANELS * COLUMNS * 2 / MATMUL; i++) {
            int id = i * MATMUL + threadIdx.x, panel = id / (COLUMNS * 2), column = id / 2 % COLUMNS, half = id % 2;
            bool valid = step * COLUMNS + column < cols;
            const u8* from = w + static_cast<long long>(min(panel0 + panel, panels - 1)) * cols * 32;
            copy_async16(to + panel * PANEL + at(column, half), from + (valid ? (step * COLUMNS + column) * 32 + half * 16 : 0), valid);
        }
    }

    u32 own;
    INLINE MatmulF16(int panel) {
        int lane = threadIdx.x % WARP;
        own = panel * PANEL + at(lane / 16 * 8 + lane % 8, lane / 8 % 2);
    }

    /// Fragment of panel p of this warp's, columns 16 k.. of the stage.
    INLINE void load(u32 (&a)[4], u32 from, int p, int k) const { load_matrices_transposed(a, from + own + p * PANEL + k * 512); }
};

template <int PANELS> struct MatmulQ8 {
    static const int COLUMNS = 64, PANEL = Q8_BYTES, BYTES = PANELS * PANEL;

    /// Where 4 rows of a group are, behind the scales.
    static INLINE int at(int group, int quarter) { return 64 + group * 64 + (quarter ^ (group & 2)) * 16; }

    static INLINE void fetch(u32 to, const u8* w, int panel0, int panels, int step, int cols) {
        long long panel_bytes = static_cast<long long>(ceil_div(cols, 64)) * Q8_BYTES;
        w += static_cast<long long>(step) * Q8_BYTES;
        int t = threadIdx.x;
        if (t < PANELS * 4) copy_async16(to + t / 4 * PANEL + t % 4 * 16, w + min(panel0 + t / 4, panels - 1) * panel_bytes + t % 4 * 16);
        int panel = t / 64, group = t / 4 % 16, quarter = t % 4;
        to += panel * PANEL + at(group, quarter);
        w += 64 + group * 64 + quarter * 16;
#pragma unroll
        for (int i = 0; i < PANELS / 2; i++) copy_async16(to + i * 2 * PANEL, w + min(panel0 + panel + i * 2, panels - 1) * panel_bytes);
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
template <class Shape, class E, bool SPLIT>
INLINE void matmul(const u8* w, const u16* hi, const u16* lo, const float* scales, const float* bias, float* out, int rows,
                   int cols, int padded, int tokens, const float* residual, float factor) {
    typedef Tokens<Shape::TOKENS, E::COLUMNS> Input;
    const int STAGE = E::BYTES + (SPLIT ? 2 : 1) * Input::BYTES, PANELS = Shape::PANELS, PAIRS = Shape::PAIRS;
    u32 shared = shared_address(shared_bytes()); // [stages][weights, hi, lo]
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int panel0 = blockIdx.x * Shape::BLOCK_PANELS, panels = ceil_div(rows, PANEL_ROWS);
    int token0 = blockIdx.y * Shape::TOKENS, steps = ceil_div(cols, E::COLUMNS);
    // This warp's part of the block: its panels and tokens from these on, and which 16 columns of a stage.
    int panel = warp % Shape::ROW_WARPS * PANELS, token = warp / Shape::ROW_WARPS % Shape::TOKEN_WARPS * PAIRS * 16;
    int turn = warp / (Shape::ROW_WARPS * Shape::TOKEN_WARPS);
    E weights(panel);
    u32 input = E::BYTES + Input::lane_offset(token);
    auto fetch = [=](int step) {
        if (step < steps) {
            u32 stage = shared + step % Shape::STAGES * STAGE;
            E::fetch(stage, w, panel0, panels, step, cols);
            Input::fetch(stage + E::BYTES, hi, token0, tokens, step * E::COLUMNS, padded);
            if (SPLIT) Input::fetch(stage + E::BYTES + Input::BYTES, lo, token0, tokens, step * E::COLUMNS, padded);
        }
        copies_commit();
    };
    wait_for_previous();
#pragma unroll 1
    for (int step = 0; step < Shape::STAGES - 1; step++) fetch(step);
    float sums[PANELS][2 * PAIRS][4] = {}; // [panel][8 tokens][fragment]
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
        copies_wait<Shape::STAGES - 2>();
        // Behind this everybody's copies of this step are there, and nobody reads the stage that is filled next.
        __syncthreads();
        fetch(step + Shape::STAGES - 1);
        u32 stage = shared + step % Shape::STAGES * STAGE;
#pragma unroll
        for (int i = 0; i < E::COLUMNS / 16 / Shape::COLUMN_WARPS; i++) {
            int k = i * Shape::COLUMN_WARPS + turn;
            u32 a[PANELS][4];
#pragma unroll
            for (int p = 0; p < PANELS; p++) weights.load(a[p], stage, p, k);
#pragma unroll
            for (int part = 0; part < (SPLIT ? 2 : 1); part++)
#pragma unroll
                for (int n = 0; n < PAIRS; n++) {
                    u32 left[2], right[2];
                    Input::load(left, right, stage + part * Input::BYTES, input, n, k);
#pragma unroll
                    for (int p = 0; p < PANELS; p++) {
                        matrix_multiply(sums[p][2 * n], a[p], left);
                        matrix_multiply(sums[p][2 * n + 1], a[p], right);
                    }
                }
        }
    }
    // Through shared memory, so that a warp writes 128 bytes of a token's row at a time.
    const int ROWS = Shape::BLOCK_PANELS * PANEL_ROWS, STRIDE = ROWS + 4;
    float* tile = reinterpret_cast<float*>(shared_bytes()); // [column warps][tokens][STRIDE]
    float* own = tile + (turn * Shape::TOKENS + token + lane % 4 * 2) * STRIDE + panel * PANEL_ROWS + lane / 4;
    __syncthreads();
#pragma unroll
    for (int p = 0; p < PANELS; p++)
#pragma unroll
        for (int n = 0; n < 2 * PAIRS; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) own[(n * 8 + e % 2) * STRIDE + p * PANEL_ROWS + e / 2 * 8] = sums[p][n][e];
    __syncthreads();
    int own_row = threadIdx.x % ROWS, row = blockIdx.x * ROWS + own_row;
    if (row >= rows) return;
    float added = bias ? bias[row] : 0;
#pragma unroll 4
    for (int t = threadIdx.x / ROWS; t < min(Shape::TOKENS, tokens - token0); t += MATMUL / ROWS) {
        float sum = 0;
#pragma unroll
        for (int c = 0; c < Shape::COLUMN_WARPS; c++) sum += tile[(c * Shape::TOKENS + t) * STRIDE + own_row];
        float y = sum * scales[token0 + t] + added;
        long long to = static_cast<long long>(token0 + t) * rows + row;
        out[to] = residual ? residual[to] + factor * y : y;
    }
}

#define MATMUL_KERNEL(name, blocks, Shape, E, split)                                                                   \
    KERNEL(128, blocks, name, const u8* w, const u16* hi, const u16* lo, const float* scales, const float* bias,           \
           float* out, int rows, int cols, int padded, int tokens, const float* residual, float factor) {              \
        matmul<Shape, E, split>(w, hi, lo, scales, bias, out, rows, cols, padded, tokens, residual, factor);               \
    }

typedef MatmulF16<Wide::BLOCK_PANELS, 32> WideF16;
typedef MatmulQ8<Wide::BLOCK_PANELS> WideQ8;
typedef MatmulF16<Narrow::BLOCK_PANELS, 64> NarrowF16;
typedef MatmulQ8<Narrow::BLOCK_PANELS> NarrowQ8;

// hi (and lo): [tokens, padded] as to_f16 makes them, at multiples of 16 bytes, grouped for q8. Block 128.
// Grid (ceil(rows / 128), ceil(tokens / 128)), shared 98304 bytes for f16 and 100352 for q8.
MATMUL_KERNEL(matmul_f16, 2, Wide, WideF16, true)
MATMUL_KERNEL(matmul_q8, 2, Wide, WideQ8, false)
// The same for few tokens, best up to 32. Grid (ceil(rows / 32), ceil(tokens / 32)), shared 73728 bytes for f16 and 37632 for q8.
MATMUL_KERNEL(matmul_narrow_f16, 3, Narrow, NarrowF16, true)
MATMUL_KERNEL(matmul_narrow_q8, 4, Narrow, NarrowQ8, false)
