// Matrices times one token's row, with the norm before it and the residual or the gate behind it.
//
// A block has one panel of 16 rows (gated: one of each matrix), its 16 warps take turns at the columns, and the sums are
// added over lanes, then over warps, in one order. What counts is bytes in flight: an H200 needs about 24 KB an SM to hide
// its memory. A thread has two steps of 64 bytes under way, a block of 512 threads 64 KB, two blocks an SM 128 KB.
// The first steps are asked for before the launch waits for its predecessor: weights depend on nothing.
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

/// Row t % 16 of product t / 16 of panels and the row `norm(x)`, in thread t of the first warp below 16 * COUNT; other
/// threads' results mean nothing.
template <class E, int COUNT>
INLINE float panel_products(const u8* const (&panels)[COUNT], const float* x, const float* norm, float eps, int cols) {
    float* space = reinterpret_cast<float*>(shared_bytes()); // [2][warps][16]
    float* squares = space + 2 * MATVEC_WARPS * PANEL_ROWS;  // [warps]
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int steps = ceil_div(cols, E::STEP), padded = steps * E::STEP;
    float* input = squares + MATVEC_WARPS;                   // [padded]
    float* weights = input + padded;                         // [padded] where there is a norm
    u8* staged = reinterpret_cast<u8*>(norm ? weights + padded : weights);

    // Slot i is the next step of panel i where there are two, else every other step.
    const int APART = COUNT == 2 ? 0 : MATVEC_WARPS, ROUND = COUNT == 2 ? MATVEC_WARPS : 2 * MATVEC_WARPS;
    const u8* first = panels[0] + E::lane_offset(lane) + warp * E::STEP_BYTES;
    const u8* second = panels[COUNT - 1] + E::lane_offset(lane) + (warp + APART) * E::STEP_BYTES;
    typename E::Weights slots[2];
    E::load(slots[0], first, warp, lane, cols);
    E::load(slots[1], second, warp + APART, lane, cols);
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

    float sums[COUNT][E::ROWS] = {};
#pragma unroll 1
    for (int step = warp; step < steps; step += ROUND) {
        first += ROUND * E::STEP_BYTES, second += ROUND * E::STEP_BYTES;
        E::add(sums[0], slots[0], row, step, lane);
        E::load(slots[0], first, step + ROUND, lane, cols);
        if (step + APART < steps) E::add(sums[COUNT - 1], slots[1], row, step + APART, lane);
        E::load(slots[1], second, step + APART + ROUND, lane, cols);
    }
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
#pragma unroll
        for (int r = 0; r < E::ROWS; r++) {
            float sum = warp_sum<E::SPREAD>(sums[i][r]);
            if (lane < E::SPREAD) space[(i * MATVEC_WARPS + warp) * PANEL_ROWS + lane * E::ROWS + r] = sum;
        }
    }
    __syncthreads();
    if (warp > 0) return 0;
    float sum = 0;
    int product = COUNT == 2 ? lane / PANEL_ROWS : 0;
#pragma unroll
    for (int w = 0; w < MATVEC_WARPS; w++) sum += space[(product * MATVEC_WARPS + w) * PANEL_ROWS + lane % PANEL_ROWS];
    if (norm) {
        float all = warp_sum(lane < MATVEC_WARPS ? squares[lane] : 0.0f);
        sum *= rsqrtf(all / cols + eps);
    }
    return sum;
}

/// y = W norm(x) + bias of each part; out = residual ? residual + factor * y : y. residual may be out.
template <class E>
INLINE void matvec(const Parts& parts, const float* x, const float* norm, float eps, int cols, const float* residual,
                   float factor) {
    // The part whose panel this block has.
    int panel = blockIdx.x, first = ceil_div(parts.rows[0], PANEL_ROWS), second = ceil_div(parts.rows[1], PANEL_ROWS);
    const u8* w = parts.w[0];
    const float* bias = parts.bias[0];
    float* out = parts.out[0];
    int rows = parts.rows[0];
    if (parts.n > 1 && panel >= first) {
        panel -= first;
        w = parts.w[1], bias = parts.bias[1], out = parts.out[1], rows = parts.rows[1];
        if (parts.n > 2 && panel >= second) {
            panel -= second;
            w = parts.w[2], bias = parts.bias[2], out = parts.out[2], rows = parts.rows[2];
        }
    }
    const u8* panels[1] = {w + panel * E::panel_bytes(cols)};
    float y = panel_products<E>(panels, x, norm, eps, cols);
    int row = panel * PANEL_ROWS + threadIdx.x;
    if (threadIdx.x >= PANEL_ROWS || row >= rows) return;
    if (bias) y += bias[row];
    out[row] = residual ? residual[row] + factor * y : y;
}

/// out = activation(gate norm(x)) * (up norm(x))
template <class E, class Activation>
INLINE void matvec_gated(const u8* gate, const u8* up, const float* gate_bias, const float* up_bias, const float* x,
                         const float* norm, float eps, int rows, int cols, float* out) {
    long long at = blockIdx.x * E::panel_bytes(cols);
    const u8* panels[2] = {gate + at, up + at};
    float y = panel_products<E>(panels, x, norm, eps, cols);
    if (threadIdx.x >= WARP) return;
    int row = blockIdx.x * PANEL_ROWS + threadIdx.x % PANEL_ROWS;
    const float* bias = threadIdx.x < PANEL_ROWS ? gate_bias : up_bias;
    if (bias && row < rows) y += bias[row];
    float other = __shfl_xor_sync(ALL_LANES, y, PANEL_ROWS);
    if (threadIdx.x < PANEL_ROWS && row < rows) out[row] = Activation::of(y) * other;
}

// Grid: panels, ceil(rows / 16) of each part. Block 384. Shared, with p = cols rounded up to a multiple of 32 (f32), 64 (f16) or
// 128 (q8): 1584 bytes, 4 p for the row, with a norm 4 p for its weights, in q8 p + p / 8 for the row's bytes.
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
