/* The least that gives the makespan of a schedule on several machines side by side: two maxima, a sum, no metric.
   Ends are kept in places that are used again; the last place is of ends that nothing waits for. */
#ifndef WIDTH
#define WIDTH 16
#endif
#define N_LANES 6

static inline double most(double a, double b) { return a > b ? a : b; }

void walk(long n, const signed char *restrict lane, const int *restrict cost, const long *restrict dep_ptr,
          const int *restrict dep, const int *restrict place, const double (*restrict issue)[WIDTH],
          const double (*restrict duration)[WIDTH], double (*restrict end)[WIDTH], double *restrict makespan)
{
    double at[N_LANES][WIDTH] = {{0}};
    for (long i = 0; i < n; i++) {
        double start[WIDTH];
        double *restrict mine = at[lane[i]], *restrict kept = end[place[i]];
        const double *restrict takes = duration[cost[i]], *restrict issued = issue[cost[i]];
        if (lane[i])
            for (int b = 0; b < WIDTH; b++) at[0][b] += issued[b];
        for (int b = 0; b < WIDTH; b++) start[b] = most(at[0][b], mine[b]);
        for (long k = dep_ptr[i]; k < dep_ptr[i + 1]; k++) {
            const double *restrict other = end[dep[k]];
            for (int b = 0; b < WIDTH; b++) start[b] = most(start[b], other[b]);
        }
        for (int b = 0; b < WIDTH; b++) mine[b] = start[b] + takes[b];
        for (int b = 0; b < WIDTH; b++) kept[b] = mine[b];
    }
    for (int b = 0; b < WIDTH; b++) {
        makespan[b] = 0;
        for (int k = 0; k < N_LANES; k++) makespan[b] = most(makespan[b], at[k][b]);
    }
}
