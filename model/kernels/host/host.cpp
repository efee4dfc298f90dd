// The kernels as functions of the host, launched by name as the driver does.
#include "shim.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>
#include <array>
#include <memory>
#include <utility>
#include <vector>

thread_local uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace {

const size_t STACK = 64 * 1024;
const uint32_t WARP = 32;

[[noreturn]] void fail(const char *text) {
    fprintf(stderr, "kernel on the host: %s (block %u, thread %u)\n", text, blockIdx.x, threadIdx.x);
    abort();
}

// Who waits at a barrier. `turn` changes when all have come.
struct Barrier {
    uint32_t waiting = 0, turn = 0;
};

// Started by its context, which costs a system call, and from then on switched to by jumps, which cost none.
struct Fibre {
    ucontext_t context;
    jmp_buf place;
    bool started = false, done = false;
};

struct Copy {
    void *to;
    const void *from;
};

// The fibres' stacks, kept from launch to launch.
thread_local std::vector<std::unique_ptr<char[]>> stacks;

struct Block {
    std::vector<Fibre> fibres;
    std::vector<Barrier> warps;
    std::vector<uint32_t> values;
    // What a lane gives to an instruction of its whole warp.
    std::vector<std::array<uint32_t, 6>> words;
    std::vector<const bf16 *> rows;
    std::vector<float4> shared;
    // What each thread copies when it waits.
    std::vector<std::vector<Copy>> copies;
    Barrier all;
    uint32_t running = 0, current = 0;
    // Whether something happened since the scheduler last began with the first fibre.
    bool progress = false;
    jmp_buf scheduler;
    void (*body)(void *) = nullptr;
    void *argument = nullptr;
};

thread_local Block *block;

void set_thread(uint32_t thread) {
    block->current = thread;
    threadIdx = {thread % blockDim.x, thread / blockDim.x % blockDim.y, thread / blockDim.x / blockDim.y};
}

void yield() {
    if (_setjmp(block->fibres[block->current].place) == 0) {
        _longjmp(block->scheduler, 1);
    }
}

void wait(Barrier &barrier, uint32_t count) {
    const uint32_t turn = barrier.turn;
    block->progress = true;
    if (++barrier.waiting >= count) {
        barrier.waiting = 0;
        barrier.turn++;
        return;
    }
    while (barrier.turn == turn) {
        yield();
    }
}

void enter() {
    block->body(block->argument);
    Fibre &fibre = block->fibres[block->current];
    fibre.done = true;
    block->running--;
    block->progress = true;
    if (!block->copies[block->current].empty()) {
        fail("a thread returned without waiting for its copies");
    }
    if (block->all.waiting > 0) {
        fail("a thread returned while others wait for it at a barrier");
    }
    yield();
}

// Lets a fibre run until it waits or is done.
void resume(Fibre &fibre, char *stack) {
    if (_setjmp(block->scheduler) != 0) {
        return;
    }
    if (fibre.started) {
        _longjmp(fibre.place, 1);
    }
    fibre.started = true;
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = stack;
    fibre.context.uc_stack.ss_size = STACK;
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, enter, 0);
    setcontext(&fibre.context);
}

void run_block(void (*body)(void *), void *argument) {
    const uint32_t threads = blockDim.x * blockDim.y * blockDim.z;
    block->body = body;
    // Not a number, so that what nobody wrote is found out.
    memset(static_cast<void *>(block->shared.data()), 0xff, block->shared.size() * sizeof(float4));
    block->argument = argument;
    block->all = Barrier();
    block->warps.assign((threads + WARP - 1) / WARP, Barrier());
    block->values.assign(threads, 0);
    block->words.resize(threads);
    block->rows.resize(threads);
    block->copies.resize(threads);
    block->fibres.resize(threads);
    while (stacks.size() < threads) {
        stacks.emplace_back(new char[STACK]);
    }
    block->running = threads;
    for (uint32_t i = 0; i < threads; i++) {
        block->fibres[i].started = block->fibres[i].done = false;
    }
    while (block->running > 0) {
        block->progress = false;
        for (uint32_t i = 0; i < threads; i++) {
            if (!block->fibres[i].done) {
                set_thread(i);
                resume(block->fibres[i], stacks[i].get());
            }
        }
        if (!block->progress) {
            fail("every thread waits: they reached different barriers");
        }
    }
}

} // namespace

void __syncthreads() { wait(block->all, block->running); }

uint32_t host_lane() { return block->current % WARP; }

uint32_t host_shuffle(uint32_t mask, uint32_t bits, uint32_t lane) {
    const uint32_t me = block->current, first = me / WARP * WARP;
    if (mask != 0xffffffffu || block->values.size() < first + WARP) {
        fail("a shuffle needs a whole warp");
    }
    block->values[me] = bits;
    wait(block->warps[me / WARP], WARP);
    const uint32_t got = block->values[first + lane % WARP];
    wait(block->warps[me / WARP], WARP);
    return got;
}

unsigned char *host_dynamic_shared() { return reinterpret_cast<unsigned char *>(block->shared.data()); }

void copy_later(void *to, const void *from, bool given) {
    host_check_address(to, 16);
    memset(to, given ? 0xff : 0, 16);
    if (given) {
        host_check_address(from, 16);
        block->copies[block->current].push_back({to, from});
    }
}

void wait_for_copies() {
    for (const Copy &copy : block->copies[block->current]) {
        memcpy(copy.to, copy.from, 16);
    }
    block->copies[block->current].clear();
}

void host_check_address(const void *at, size_t bytes) {
    if (reinterpret_cast<uintptr_t>(at) % bytes != 0) {
        fail("an access of several numbers at once needs an address at a multiple of their size");
    }
}

namespace {

// The first thread of the calling thread's warp, which must be whole.
uint32_t first_of_warp() {
    const uint32_t first = block->current / WARP * WARP;
    if (block->values.size() < first + WARP) {
        fail("an instruction of a warp needs a whole warp");
    }
    return first;
}

float half_of(uint32_t word, uint32_t half) { return __uint_as_float(half ? word & 0xffff0000u : word << 16); }

} // namespace

void __syncwarp() {
    first_of_warp();
    wait(block->warps[block->current / WARP], WARP);
}

void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    const uint32_t me = block->current, first = first_of_warp(), lane = me - first;
    block->words[me] = {a[0], a[1], a[2], a[3], b0, b1};
    wait(block->warps[me / WARP], WARP);
    for (uint32_t i = 0; i < 4; i++) {
        const uint32_t row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (uint32_t k = 0; k < 16; k++) {
            const auto &left = block->words[first + row % 8 * 4 + k % 8 / 2];
            const auto &right = block->words[first + column * 4 + k % 8 / 2];
            c[i] += half_of(left[row / 8 + k / 8 * 2], k % 2) * half_of(right[4 + k / 8], k % 2);
        }
    }
    wait(block->warps[me / WARP], WARP);
}

void host_load_matrices(uint32_t (&r)[4], const bf16 *row, bool transposed) {
    const uint32_t me = block->current, first = first_of_warp(), lane = me - first;
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) {
        fail("ldmatrix needs rows at multiples of 16 bytes");
    }
    block->rows[me] = row;
    wait(block->warps[me / WARP], WARP);
    for (uint32_t matrix = 0; matrix < 4; matrix++) {
        const bf16 *const *rows = &block->rows[first + 8 * matrix];
        const uint32_t at = lane / 4, two = lane % 4 * 2;
        const bf16 low = transposed ? rows[two][at] : rows[at][two];
        const bf16 high = transposed ? rows[two + 1][at] : rows[at][two + 1];
        r[matrix] = low.bits | (uint32_t)high.bits << 16;
    }
    wait(block->warps[me / WARP], WARP);
}

#include "../attention.cu"
#include "../attention_f32.cu"
#include "../augment.cu"
#include "../classify.cu"
#include "../elementwise.cu"
#include "../gelu.cu"
#include "../image.cu"
#include "../layer_norm.cu"
#include "../reduce.cu"
#include "../target.cu"
#include "../tokens.cu"
#include "../update.cu"

namespace {

template <typename... A, size_t... I> void call(void (*kernel)(A...), void **args, std::index_sequence<I...>) {
    kernel(*static_cast<A *>(args[I])...);
}

template <auto KERNEL> struct Call;
template <typename... A, void (*KERNEL)(A...)> struct Call<KERNEL> {
    static void run(void *args) { call(KERNEL, static_cast<void **>(args), std::index_sequence_for<A...>()); }
    static const size_t COUNT = sizeof...(A);
};

struct Entry {
    const char *name;
    size_t count;
    void (*run)(void *);
};

#define ENTRY(NAME) {#NAME, Call<NAME>::COUNT, Call<NAME>::run}
#define BOTH(NAME) ENTRY(NAME##_f32), ENTRY(NAME##_bf16)
#define HEADS(W) ENTRY(attention_forward_bf16_##W), ENTRY(attention_backward_query_bf16_##W), ENTRY(attention_backward_key_bf16_##W)
const Entry ENTRIES[] = {
    ENTRY(attention_forward_f32), ENTRY(attention_backward_query_f32), ENTRY(attention_backward_key_f32),
    HEADS(32), HEADS(64), HEADS(80),
    BOTH(embed_backward),      BOTH(embed_forward),      BOTH(gelu_backward),    BOTH(gelu_forward),
    BOTH(layer_norm_backward), BOTH(layer_norm_forward), BOTH(layer_norm_residual), BOTH(removed_backward),
    BOTH(removed_forward),     BOTH(unshuffle_backward), BOTH(unshuffle_forward), BOTH(masked_loss), BOTH(patchify), ENTRY(removed_patches), BOTH(squared_error), BOTH(token_loss), ENTRY(column_sums), BOTH(column_parts),
    ENTRY(pool_forward), ENTRY(pool_backward), ENTRY(cross_entropy),
    BOTH(erase), BOTH(mix), BOTH(scale), BOTH(add_bias), ENTRY(fill), ENTRY(round_to_bf16), ENTRY(join), BOTH(join_backward),
    ENTRY(record_loss), ENTRY(sum_squares), ENTRY(settle), ENTRY(adamw),
};

} // namespace

// As the driver's cuLaunchKernel. Returns 0, 1 for a name that there is not, 2 for another number of arguments than the kernel takes.
extern "C" int32_t mae_host_launch(const char *name, const uint32_t grid[3], const uint32_t threads[3], uint32_t shared, void **args,
                                   size_t count) {
    for (const Entry &entry : ENTRIES) {
        if (strcmp(entry.name, name) != 0) {
            continue;
        }
        if (entry.count != count) {
            return 2;
        }
        Block mine;
        block = &mine;
        mine.shared.resize((shared + sizeof(float4) - 1) / sizeof(float4));
        gridDim = {grid[0], grid[1], grid[2]};
        blockDim = {threads[0], threads[1], threads[2]};
        for (uint32_t z = 0; z < grid[2]; z++) {
            for (uint32_t y = 0; y < grid[1]; y++) {
                for (uint32_t x = 0; x < grid[0]; x++) {
                    blockIdx = {x, y, z};
                    run_block(entry.run, args);
                }
            }
        }
        block = nullptr;
        return 0;
    }
    return 1;
}
