// Matrices times one token's row, with the norm before it and the residual or the gate behind it.
//
// A block takes panels of 16 rows in turn (gated: one of each matrix), its 12 warps take turns at the columns, and the sums are
// added over lanes, then over warps, in one order. What counts is bytes in flight: an H200 needs about 24 KB an SM to hide
// its memory. A thread has two steps of 64 bytes under way, a block of 384 threads 48 KB, two blocks an SM 96 KB (80
// registers a thread). That holds across panels: the next one's steps are asked for before this one's sums are added up. The
// first steps are asked for before the launch waits for its predecessor: weights depend on nothing.
//
// The norm costs no pass of its own: x * weight goes into the product, 1 / sqrt(mean(x^2) + eps) multiplies its result.

const int MATVEC = 384, MATVEC_WARPS = MATVEC / WARP;

/// Up to three matrices with the same input, and what goes to the right of each.
struct Parts {
    const u8* w[3];
    const float* bias[3];
    float* out[3];
    int rows[3];
    int n;
};

/// Calls finish(panel, y) for every panel of this block in all lanes of its first warp: y is row lane % 16 of the product of
/// the panel at panel_at(panel), or for lanes from 16 on the one `between` bytes behind it, and norm(x). With COUNT 1 there is no other one,
/// and what these lanes have means nothing.
template <class E, int COUNT, class PanelAt, class Finish>
INLINE void panel_products(int panels, PanelAt panel_at, long long between, const float* x, const float* norm, float eps, int cols, Finish finish) {
    const int SUMS = 2 * MATVEC_WARPS * PANEL_ROWS;
    float* space = reinterpret_cast<float*>(shared_bytes()); // [2 turns][2 products][warps][16]
    float* squares = space + 2 * SUMS;                       // [warps]
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int steps = ceil_div(cols, E::STEP), padded = steps * E::STEP;
    float* input = squares + MATVEC_WARPS;                   // [padded]
    float* weights = input + padded;                         // [padded] where there is a norm
    u8* staged = reinterpret_cast<u8*>(norm ? weights + padded : weights);

    // Slot 1 has, where there are two products, the second one's step, else the step behind that of slot 0.
    const int APART = COUNT == 2 ? 0 : MATVEC_WARPS, ROUND = COUNT == 2 ? MATVEC_WARPS : 2 * MATVEC_WARPS;
    if (COUNT == 1) between = APART * E::STEP_BYTES;
    int offset = E::lane_offset(lane) + warp * E::STEP_BYTES, panel = blockIdx.x;
    const u8* next = panel_at(panel) + offset;
    typename E::Weights slots[2];
    E::load(slots[0], next, warp, lane, cols);
    E::load(slots[1], next + between, warp + APART, lane, cols);
    if (norm) fetch_row<MATVEC>(weights, norm, cols, padded);
    wait_for_previous();
    fetch_row<MATVEC>(input, x, cols, padded);
    copies_commit();
    copies_wait<0>();
    typename E::Row row;
    float square = row.template stage<MATVEC>(input, norm ? weights : nullptr, staged, padded);
    if (norm) {
        square = warp_sum(square);
        if (lane == 0) squares[warp] = square;
    }
    __syncthreads();
    if (warp == 0) {
        float all = warp_sum(norm && lane < MATVEC_WARPS ? squares[lane] : 0.0f);
        __syncwarp();
        if (lane == 0) squares[0] = norm ? rsqrtf(all / cols + eps) : 1.0f; // read again behind the panel's barrier
    }

    // Warps add up a panel's sums in one half of the space while the first warp reads the other: one barrier a panel.
#pragma unroll 1
    for (int turn = 0; panel < panels; panel += gridDim.x, turn ^= SUMS) {
        float sums[COUNT][E::ROWS] = {};
#pragma unroll 1
        for (int step = warp; step < steps; step += ROUND) {
            // What a slot loads when it is empty: its next step, behind the last one the next panel's first, or nothing.
            int ahead = step + ROUND;
            next += ROUND * E::STEP_BYTES;
            if (ahead >= steps && panel + static_cast<int>(gridDim.x) < panels) {
                ahead = warp;
                next = panel_at(panel + gridDim.x) + offset;
            }
            E::add(sums[0], slots[0], row, step, lane);
            E::load(slots[0], next, ahead, lane, cols);
            if (step + APART < steps) E::add(sums[COUNT - 1], slots[1], row, step + APART, lane);
            E::load(slots[1], next + between, ahead + APART, lane, cols);
        }
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
#pragma unroll
            for (int r = 0; r < E::ROWS; r++) {
                float sum = warp_sum<E::SPREAD>(sums[i][r]);
                if (lane < E::SPREAD) space[turn + (i * MATVEC_WARPS + warp) * PANEL_ROWS + lane * E::ROWS + r] = sum;
            }
        }
        __syncthreads();
        if (warp > 0) continue;
        float sum = 0;
        const float* own = space + turn + (COUNT == 2 ? lane / PANEL_ROWS * MATVEC_WARPS * PANEL_ROWS : 0) + lane % PANEL_ROWS;
#pragma unroll
        for (int w = 0; w < MATVEC_WARPS; w++) sum += own[w * PANEL_ROWS];
        finish(panel, sum * squares[0]);
    }
}

/// y = W norm(x) + bias of each part; out = residual ? residual + factor * y : y. residual may be out.
template <class E>
INLINE void matvec(const Parts& parts, const float* x, const float* norm, float eps, int cols, const float* residual,
                   float factor) {
    // Panels are counted through the parts.
    int first = ceil_div(parts.rows[0], PANEL_ROWS), second = first + (parts.n > 1 ? ceil_div(parts.rows[1], PANEL_ROWS) : 0);
    int panels = second + (parts.n > 2 ? ceil_div(parts.rows[2], PANEL_ROWS) : 0);
    auto panel_at = [=, &parts](int panel) {
        const u8* w = panel < first ? parts.w[0] : panel < second ? parts.w[1] : parts.w[2];
        return w + (panel - (panel < first ? 0 : panel < second ? first : second)) * E::panel_bytes(cols);
    };
    panel_products<E, 1>(panels, panel_at, 0, x, norm, eps, cols, [=, &parts](int panel, float y) {
        int row = (panel - (panel < first ? 0 : panel < second ? first : second)) * PANEL_ROWS + threadIdx.x;
        int rows = panel < first ? parts.rows[0] : panel < second ? parts.rows[1] : parts.rows[2];
        const float* bias = panel < first ? parts.bias[0] : panel < second ? parts.bias[1] : parts.bias[2];
        float* out = panel < first ? parts.out[0] : panel < second ? parts.out[1] : parts.out[2];
        if (threadIdx.x >= PANEL_ROWS || row >= rows) return;
        if (bias) y += bias[row];
        out[row] = residual ? residual[row] + factor * y : y;
    });
}

/// out = activation(gate norm(x)) * (up norm(x))
template <class E, class Activation>
INLINE void matvec_gated(const u8* gate, const u8* up, const float* gate_bias, const float* up_bias, const float* x,
                         const float* norm, float eps, int rows, int cols, float* out) {
    auto panel_at = [=](int panel) { return gate + panel * E::panel_bytes(cols); };
    long long between = static_cast<long long>(reinterpret_cast<u64>(up) - reinterpret_cast<u64>(gate));
    panel_products<E, 2>(ceil_div(rows, PANEL_ROWS), panel_at, between, x, norm, eps, cols, [=](int panel, float y) {
        int row = panel * PANEL_ROWS + threadIdx.x % PANEL_ROWS;
        const float* bias = threadIdx.x < PANEL_ROWS ? gate_bias : up_bias;
        if (bias && row < rows) y += bias[row];
        float other = __shfl_xor_sync(ALL_LANES, y, PANEL_ROWS);
        if (threadIdx.x < PANEL_ROWS && row < rows) out[row] = Activation::of(y) * other;
    });
}

// Grid: up to as many blocks as panels, ceil(rows / 16) of each part; best are two an SM. Block 384. Shared, with p = cols rounded up to a multiple of 32 (f32), 64 (f16) or
// 128 (q8): 3120 bytes, 4 p for the row, with a norm 4 p for its weights, in q8 p + p / 8 for the row's bytes.
#define MATVEC_KERNELS(name, E)                                                                                        \
    KERNEL(384, 2, matvec_##name, Parts parts, const float* x, const float* norm, float eps, int cols,                     \
           const float* residual, float factor) {                                                                      \
        matvec<E>(parts, x, norm, eps, cols, residual, factor);                                                        \
    }                                                                                                                  \
    KERNEL(384, 2, matvec_gated_silu_##name, const u8* gate, const u8* up, const float* gate_bias, const float* up_bias,   \
           const float* x, const float* norm, float eps, int rows, int cols, float* out) {                             \
        matvec_gated<E, Silu>(gate, up, gate_bias, up_bias, x, norm, eps, rows, cols, out);                            \
    }                                                                                                                  \
    KERNEL(384, 2, matvec_gated_gelu_##name, const u8* gate, const u8* up, const float* gate_bias, const float* up_bias,   \
           const float* x, const float* norm, float eps, int rows, int cols, float* out) {                             \
        matvec_gated<E, GeluTanh>(gate, up, gate_bias, up_bias, x, norm, eps, rows, cols, out);                        \
    }

MATVEC_KERNELS(f32, F32)
MATVEC_KERNELS(f16, F16)
MATVEC_KERNELS(q8, Q8)
