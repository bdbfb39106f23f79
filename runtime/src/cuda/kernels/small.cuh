// Operations on rows that are not matrices: norms, gates, sums. Values are f32.
//
// Grid of those over n values: any number of blocks up to ceil(n / 256), each thread strides. Block 256, no shared memory.

const int SMALL = 256;

/// Calls each(i) for every i below n, the grid's threads side by side.
template <class Each> INLINE void for_each_value(long long n, Each each) {
    long long stride = static_cast<long long>(gridDim.x) * SMALL;
    for (long long i = static_cast<long long>(blockIdx.x) * SMALL + threadIdx.x; i < n; i += stride) each(i);
}

/// x *= factor
KERNEL(256, 4, scale, float* x, long long n, float factor) {
    wait_for_previous();
    for_each_value(n, [=](long long i) { x[i] *= factor; });
}

/// x = cap * tanh(x / cap)
KERNEL(256, 4, softcap, float* x, long long n, float cap) {
    wait_for_previous();
    for_each_value(n, [=](long long i) { x[i] = cap * tanhf(x[i] / cap); });
}

/// x += factor * y
KERNEL(256, 4, add, float* x, const float* y, long long n, float factor) {
    wait_for_previous();
    for_each_value(n, [=](long long i) { x[i] += factor * y[i]; });
}

struct Silu {
    static INLINE float of(float g) { return g / (1.0f + expf(-g)); }
};

/// g / 2 * (1 + tanh(sqrt(2 / pi) (g + 0.044715 g^3))), without its cancellation.
struct GeluTanh {
    static INLINE float of(float g) { return g / (1.0f + expf(g * (-1.5957691f - 0.071354816f * g * g))); }
};

/// out = silu(gate) * up
KERNEL(256, 4, gate_silu, const float* gate, const float* up, float* out, long long n) {
    wait_for_previous();
    for_each_value(n, [=](long long i) { out[i] = Silu::of(gate[i]) * up[i]; });
}

/// out = gelu(gate) * up
KERNEL(256, 4, gate_gelu_tanh, const float* gate, const float* up, float* out, long long n) {
    wait_for_previous();
    for_each_value(n, [=](long long i) { out[i] = GeluTanh::of(gate[i]) * up[i]; });
}

/// Rows up to this wide, such as heads, are a warp's work; wider ones a block's.
const int WARP_ROW = 512;

/// Gives each(row, r, from, step) the row of this block or warp, 1 / sqrt(mean(x^2) + eps), and the columns that are this thread's.
template <class Each> INLINE void with_norms(const float* x, int rows, int width, float eps, Each each) {
    const int WARPS = SMALL / WARP;
    float* space = reinterpret_cast<float*>(shared_bytes());
    bool by_warp = width <= WARP_ROW;
    int warp = threadIdx.x / WARP, row = by_warp ? blockIdx.x * WARPS + warp : blockIdx.x;
    int from = by_warp ? threadIdx.x % WARP : threadIdx.x, step = by_warp ? WARP : SMALL;
    // A whole warp or block leaves, or none of it.
    if (row >= rows) return;
    float sum = 0;
    for (int i = from; i < width; i += step) {
        float v = x[static_cast<long long>(row) * width + i];
        sum += v * v;
    }
    sum = by_warp ? warp_sum(sum) : block_sum<WARPS>(sum, space);
    each(static_cast<long long>(row) * width, rsqrtf(sum / width + eps), from, step);
}

/// out = x / sqrt(mean(x^2) + eps) * weight, of each row; out may be x.
/// Grid ceil(rows / 8) where width <= 512, else rows. Block 256. Shared 32 bytes.
KERNEL(256, 4, rms_norm, const float* x, const float* weight, float* out, int rows, int width, float eps) {
    wait_for_previous();
    with_norms(x, rows, width, eps, [=](long long row, float r, int from, int step) {
        for (int i = from; i < width; i += step) out[row + i] = x[row + i] * r * weight[i];
    });
}

/// x += factor * rms_norm(y), of each row. Grid, block, shared as rms_norm.
KERNEL(256, 4, norm_add, float* x, const float* y, const float* weight, int rows, int width, float eps, float factor) {
    wait_for_previous();
    with_norms(y, rows, width, eps, [=](long long row, float r, int from, int step) {
        for (int i = from; i < width; i += step) x[row + i] += factor * (y[row + i] * r * weight[i]);
    });
}
