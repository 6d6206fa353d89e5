// What one core unpacks of weights and multiplies by one row of activations, by format: `core_formats` of llama.cpp's
// stacks. Out of caches (16 rows again and again), and out of DRAM (blocks of 64 rows, each read once). Beside a build
// of llama.cpp without shared libraries, in BUILD, from its sources in SOURCE:
//
//   g++ -O3 -fopenmp -I SOURCE/ggml/include benchmarks/core_formats.cpp BUILD/ggml/src/libggml-cpu.a \
//       BUILD/ggml/src/libggml-base.a -ldl -lpthread -o core_formats && taskset -c 0 ./core_formats GHZ
//
// GHZ: the clock of the core while it runs, which turns times into cycles. Use it on a machine with nothing else to do.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "ggml-cpu.h"
#include "ggml.h"

static const int WIDTH = 4096, ROWS = 16, BLOCK = 64, TIMES = 400;
static const size_t BYTES_IN_DRAM = 200u << 20;

static const ggml_type FORMATS[] = {
    GGML_TYPE_Q4_0,  GGML_TYPE_Q8_0,    GGML_TYPE_MXFP4,  GGML_TYPE_Q2_K,  GGML_TYPE_Q3_K,    GGML_TYPE_Q4_K,
    GGML_TYPE_Q5_K,  GGML_TYPE_Q6_K,    GGML_TYPE_IQ1_S,  GGML_TYPE_IQ1_M, GGML_TYPE_IQ2_XXS, GGML_TYPE_IQ2_XS,
    GGML_TYPE_IQ2_S, GGML_TYPE_IQ3_XXS, GGML_TYPE_IQ3_S,  GGML_TYPE_IQ4_NL, GGML_TYPE_IQ4_XS,
};

static double now_s() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Seconds for `rows` rows of weights, each multiplied by the one row of activations.
static double time_s(const ggml_type_traits_cpu* traits, const char* weights, size_t row_bytes, int rows,
                     const char* activations) {
    static volatile float sink = 0;
    const double start_s = now_s();
    for (int row = 0; row < rows; row++) {
        float product;
        traits->vec_dot(WIDTH, &product, 0, weights + row_bytes * row, 0, activations, 0, 1);
        sink = sink + product;
    }
    return now_s() - start_s;
}

int main(int argc, char** argv) {
    const double ghz = argc == 2 ? atof(argv[1]) : 0;
    if (!(ghz > 0)) {
        fprintf(stderr, "usage: core_formats GHZ, the clock of the core\n");
        return 2;
    }
    ggml_cpu_init();
    srand(1);
    std::vector<float> row(WIDTH), plain((size_t)WIDTH * ROWS), importance(WIDTH, 1.f);
    for (auto* numbers : {&row, &plain})
        for (auto& x : *numbers) x = rand() / (float)RAND_MAX - .5f;
    printf("format, bits, GB/s out of caches, GB/s out of DRAM, cycles a weight out of caches, out of DRAM\n");
    for (ggml_type format : FORMATS) {
        const auto* traits = ggml_get_type_traits_cpu(format);
        const size_t row_bytes = ggml_row_size(format, WIDTH);
        std::vector<char> warm(row_bytes * ROWS), activations(ggml_row_size(traits->vec_dot_type, WIDTH));
        ggml_quantize_init(format);
        ggml_quantize_chunk(format, plain.data(), warm.data(), 0, ROWS, WIDTH, importance.data());
        ggml_get_type_traits_cpu(traits->vec_dot_type)->from_float(row.data(), activations.data(), WIDTH);

        double cached_s = 1e9;
        for (int again = 0; again < TIMES; again++)
            cached_s = std::min(cached_s, time_s(traits, warm.data(), row_bytes, ROWS, activations.data()));

        const size_t n_rows = BYTES_IN_DRAM / row_bytes;
        std::vector<char> cold(row_bytes * n_rows);
        for (size_t i = 0; i < n_rows; i++)
            memcpy(cold.data() + row_bytes * i, warm.data() + row_bytes * (i % ROWS), row_bytes);
        std::vector<double> blocks_s;
        for (int again = 0; again < 3; again++)
            for (size_t i = 0; i + BLOCK <= n_rows; i += BLOCK)
                blocks_s.push_back(time_s(traits, cold.data() + row_bytes * i, row_bytes, BLOCK, activations.data()));
        std::sort(blocks_s.begin(), blocks_s.end());
        const double read_s = blocks_s[blocks_s.size() / 4];  // the first quartile: quiet moments

        printf("%s, %.4f, %.2f, %.2f, %.3f, %.3f\n", ggml_type_name(format), row_bytes * 8. / WIDTH,
               row_bytes * ROWS / cached_s / 1e9, row_bytes * BLOCK / read_s / 1e9,
               cached_s * ghz * 1e9 / ROWS / WIDTH, read_s * ghz * 1e9 / BLOCK / WIDTH);
        fflush(stdout);
    }
}
