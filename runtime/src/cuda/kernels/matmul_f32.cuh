// Many tokens times an f32 matrix, in f32 (no TF32: the ladder's 1e-4 is below what that keeps).
//
// A block has 64 rows, four panels, of 64 tokens; a thread 4 rows of 4 tokens. 16 columns at a time go through shared memory, the
// next ones into registers meanwhile. Columns are added in ascending order.

const int F32_TILE = 64, F32_COLUMNS = 16;

/// out = residual ? residual + factor * y : y with y = W x + bias: x [tokens, cols], out and residual [tokens, rows].
/// Grid (ceil(rows / 64), ceil(tokens / 64)), block 256, shared 8448 bytes.
KERNEL(256, 2, matmul_f32, const u8* w, const float* x, const float* bias, float* out, int rows, int cols, int tokens,
       const float* residual, float factor) {
    wait_for_previous();
    const int STRIDE = F32_TILE + 4; // of tokens: their stores then spread over banks
    float* weights = reinterpret_cast<float*>(shared_bytes()); // [16][64]
    float* inputs = weights + F32_COLUMNS * F32_TILE;          // [16][68]
    int t = threadIdx.x, row0 = blockIdx.x * F32_TILE, token0 = blockIdx.y * F32_TILE;
    // What this thread carries: of weights 4 rows of a column, of inputs 4 columns of a token.
    int panel = t / 64, column = t % 64 / 4, quarter = t % 4, token = t / 4, columns = t % 4 * 4;
    bool has_panel = row0 + panel * PANEL_ROWS < rows, has_token = token0 + token < tokens;
    const float* panels = reinterpret_cast<const float*>(w) + static_cast<long long>(row0 / PANEL_ROWS + panel) * cols * PANEL_ROWS;
    const float* input = x + static_cast<long long>(token0 + token) * cols;
    auto next_weights = [=](int k) {
        bool valid = has_panel && k + column < cols;
        return valid ? *reinterpret_cast<const float4*>(panels + (k + column) * PANEL_ROWS + quarter * 4) : float4{0, 0, 0, 0};
    };
    auto next_input = [=](int k, int i) { return has_token && k + columns + i < cols ? input[k + columns + i] : 0.0f; };

    int my_rows = t % 16 * 4, my_tokens = t / 16 * 4;
    float sums[4][4] = {}; // [token][row]
    float4 carried = next_weights(0);
    float four[4] = {next_input(0, 0), next_input(0, 1), next_input(0, 2), next_input(0, 3)};
    for (int k = 0; k < cols; k += F32_COLUMNS) {
        *reinterpret_cast<float4*>(weights + column * F32_TILE + panel * PANEL_ROWS + quarter * 4) = carried;
#pragma unroll
        for (int i = 0; i < 4; i++) inputs[(columns + i) * STRIDE + token] = four[i];
        __syncthreads();
        carried = next_weights(k + F32_COLUMNS);
#pragma unroll
        for (int i = 0; i < 4; i++) four[i] = next_input(k + F32_COLUMNS, i);
#pragma unroll
        for (int c = 0; c < F32_COLUMNS; c++) {
            float4 a = *reinterpret_cast<const float4*>(weights + c * F32_TILE + my_rows);
            float4 b = *reinterpret_cast<const float4*>(inputs + c * STRIDE + my_tokens);
            float of_rows[4] = {a.x, a.y, a.z, a.w}, of_tokens[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int r = 0; r < 4; r++) sums[i][r] += of_rows[r] * of_tokens[i];
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int r = 0; r < 4; r++) {
            int row = row0 + my_rows + r, of = token0 + my_tokens + i;
            if (row >= rows || of >= tokens) continue;
            float y = sums[i][r] + (bias ? bias[row] : 0);
            long long to = static_cast<long long>(of) * rows + row;
            out[to] = residual ? residual[to] + factor * y : y;
        }
}
