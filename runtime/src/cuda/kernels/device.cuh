// What kernels use of the device beyond plain CUDA C++, each instruction under a name, its emulation on a CPU beside it.
//
// No header is included: NVRTC is then all that it takes. With EMULATOR the tests' header has come before and stands for the
// language itself (threadIdx, barriers, shuffles).

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// A kernel: threads of its blocks, how many blocks an SM shall hold, its name, its arguments.
#ifdef EMULATOR
#define KERNEL(threads, blocks, name, ...)                                                                             \
    extern "C" void name(__VA_ARGS__);                                                                                 \
    static emu::Entry<name> entry_of_##name(#name, threads);                                                           \
    extern "C" void name(__VA_ARGS__)
#else
#define KERNEL(threads, blocks, name, ...) extern "C" __global__ void __launch_bounds__(threads, blocks) name(__VA_ARGS__)
#endif

#define INLINE __device__ __forceinline__

const u32 ALL_LANES = 0xffffffffu;
const int WARP = 32;

/// Where the step stands: in device memory, so that a captured graph stays valid.
struct Step {
    u32 first;
    u32 tokens;
};

/// A block's shared memory, all of it dynamic: the launch says how many bytes. At a multiple of 16.
INLINE u8* shared_bytes() {
#ifdef EMULATOR
    return emu::shared_memory;
#else
    extern __shared__ uint4 shared_words[];
    return reinterpret_cast<u8*>(shared_words);
#endif
}

/// Where a pointer to shared memory points, as copies and matrix loads take it: 32 bits to count with.
INLINE u32 shared_address(const void* p) {
#ifdef EMULATOR
    return static_cast<u32>(static_cast<const u8*>(p) - emu::shared_memory);
#else
    return static_cast<u32>(__cvta_generic_to_shared(p));
#endif
}

INLINE int ceil_div(int a, int b) { return (a + b - 1) / b; }

// Launches that overlap. From sm_90 on a kernel may begin while its predecessor on the stream runs, if its launch asks for
// it. It may then read weights, and nothing else until wait_for_previous. A kernel lets its successor begin only after
// its own wait: so never more than two are under way, and what the one before the predecessor wrote is there.

/// All that launches before this one wrote is there behind this. Each kernel's first line, or its second behind loads of weights.
INLINE void wait_for_previous() {
#if !defined(EMULATOR) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Memory.

/// 16 bytes of weights: read once by one block, never written by a kernel. Stays where it stands among other such loads.
INLINE uint4 load_weights16(const void* p) {
#ifdef EMULATOR
    emu::aligned(p, 16);
    return *static_cast<const uint4*>(p);
#else
    uint4 w;
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(w.x), "=r"(w.y), "=r"(w.z), "=r"(w.w) : "l"(p));
    return w;
#endif
}

/// 8 bytes of weights.
INLINE uint2 load_weights8(const void* p) {
#ifdef EMULATOR
    emu::aligned(p, 8);
    return *static_cast<const uint2*>(p);
#else
    uint2 w;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(w.x), "=r"(w.y) : "l"(p));
    return w;
#endif
}

/// A float that another block may have written in this launch: not from this SM's own cache.
INLINE float load_fresh(const float* p) {
#ifdef EMULATOR
    return *p;
#else
    float x;
    asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(x) : "l"(p) : "memory");
    return x;
#endif
}

/// 64 bits that another block may have written in this launch.
INLINE u64 load_fresh(const u64* p) {
#ifdef EMULATOR
    return *p;
#else
    u64 x;
    asm volatile("ld.global.cg.u64 %0, [%1];" : "=l"(x) : "l"(p) : "memory");
    return x;
#endif
}

/// Asks for the line of memory at p, soon to be read.
INLINE void prefetch(const void* p) {
#ifdef EMULATOR
    // A GPU forgives any address; here it must be one that could be read.
    (void)*static_cast<const volatile u8*>(p);
#else
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#endif
}

/// 4 or 2 bytes of shared memory.
INLINE u32 load_shared32(u32 at) {
#ifdef EMULATOR
    return *static_cast<const u32*>(emu::in_shared(at, 4));
#else
    u32 x;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(x) : "r"(at) : "memory");
    return x;
#endif
}
INLINE u16 load_shared16(u32 at) {
#ifdef EMULATOR
    return *static_cast<const u16*>(emu::in_shared(at, 2));
#else
    u16 x;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(x) : "r"(at) : "memory");
    return x;
#endif
}

/// Queues a copy of 16 bytes to shared memory; where it is not valid, of zeros, and `from` is not read.
INLINE void copy_async16(u32 to, const void* from, bool valid = true) {
#ifdef EMULATOR
    if (valid) emu::aligned(from, 16);
    emu::Copy copy{emu::in_shared(to, 16), from, 16, valid ? 16u : 0u};
    if (emu::order.late_copies)
        emu::current->copies.back().push_back(copy);
    else
        emu::copy(copy);
#else
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
#endif
}

/// What this thread queued since the last commit is one group.
INLINE void copies_commit() {
#ifdef EMULATOR
    emu::current->copies.push_back({});
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/// Waits until at most PENDING of this thread's groups are under way. Other threads see the copies behind a barrier.
template <int PENDING> INLINE void copies_wait() {
#ifdef EMULATOR
    auto& groups = emu::current->copies;
    while (groups.size() > PENDING + 1) {
        for (const emu::Copy& copy : groups.front()) emu::copy(copy);
        groups.erase(groups.begin());
    }
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

// Numbers.

/// 2^x within two units in the last place, 0 below -126.
INLINE float exp2_fast(float x) {
#ifdef EMULATOR
    return exp2f(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

/// e^x for x up to 0, of the differences of scores.
INLINE float exp_fast(float x) { return exp2_fast(x * 1.4426950408889634f); }

INLINE float half_to_float(u16 h) {
#ifdef EMULATOR
    return emu::half_table()[h];
#else
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
#endif
}

/// To nearest, ties to even.
INLINE u16 float_to_half(float f) {
#ifdef EMULATOR
    return emu::half_bits(f);
#else
    u16 h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
#endif
}

INLINE u16 low_half(u32 pair) { return static_cast<u16>(pair); }
INLINE u16 high_half(u32 pair) { return static_cast<u16>(pair >> 16); }
INLINE u32 pair_of(u16 low, u16 high) { return low | static_cast<u32>(high) << 16; }

/// Two floats as f16, the first in the low half.
INLINE u32 floats_to_halves(float low, float high) {
#ifdef EMULATOR
    return pair_of(float_to_half(low), float_to_half(high));
#else
    u32 pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#endif
}

/// a - b of two pairs of f16.
INLINE u32 subtract_halves(u32 a, u32 b) {
#ifdef EMULATOR
    return floats_to_halves(half_to_float(low_half(a)) - half_to_float(low_half(b)),
                            half_to_float(high_half(a)) - half_to_float(high_half(b)));
#else
    u32 d;
    asm("sub.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
#endif
}

/// a * b of two pairs of f16.
INLINE u32 multiply_halves(u32 a, u32 b) {
#ifdef EMULATOR
    return floats_to_halves(half_to_float(low_half(a)) * half_to_float(low_half(b)),
                            half_to_float(high_half(a)) * half_to_float(high_half(b)));
#else
    u32 d;
    asm("mul.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
#endif
}

/// Four signed bytes as two pairs of f16, exactly. With its top bit flipped a byte is b + 128; behind the byte 0x64 that is
/// the f16 1024 + 128 + b.
INLINE uint2 bytes_to_halves(u32 bytes) {
    u32 raised = bytes ^ 0x80808080u;
    u32 low = __byte_perm(raised, 0x64646464u, 0x4140), high = __byte_perm(raised, 0x64646464u, 0x4342);
    const u32 offset = 0x64806480u; // 1152, twice
    return uint2{subtract_halves(low, offset), subtract_halves(high, offset)};
}

// Tensor cores. Lane 4 g + c of a warp holds, of a [16, 16]: a[0] (g, 2c..), a[1] (g + 8, 2c..), a[2] (g, 2c + 8..), a[3]
// (g + 8, 2c + 8..); of b [16, 8]: b[0] (2c.., g), b[1] (2c + 8.., g); of d [16, 8]: (g, 2c), (g, 2c + 1), (g + 8, 2c),
// (g + 8, 2c + 1). "2c.." is a pair, 2c in the low half.

/// d += a b
INLINE void matrix_multiply(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
#ifdef EMULATOR
    emu::Mma own{d, a, b};
    emu::together(emu::mma, &own);
#else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/// Four [8, 8] matrices of f16 from shared memory: lane 8 m + r says where row r of matrix m is; lane 4 g + c gets of each
/// the pair (g, 2c..).
INLINE void load_matrices(u32 (&d)[4], u32 row) {
#ifdef EMULATOR
    emu::Matrices own{d, emu::in_shared(row, 16)};
    emu::together(emu::load_matrices<false>, &own);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(row) : "memory");
#endif
}

/// The same, transposed: lane 4 g + c gets of each matrix (2c, g) and (2c + 1, g).
INLINE void load_matrices_transposed(u32 (&d)[4], u32 row) {
#ifdef EMULATOR
    emu::Matrices own{d, emu::in_shared(row, 16)};
    emu::together(emu::load_matrices<true>, &own);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(row) : "memory");
#endif
}
