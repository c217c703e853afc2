/* Token statistics and their gradient, one vocabulary-long row at a time.
 *
 * The plain PyTorch code beside this file (tile.py) computes the same and is what this is tested
 * against; here a row is read once from memory and stays in the processor's cache for the thirty
 * passes that the search for CVaR's quantile takes.
 *
 * Compiled without -ffast-math: gradient() must find the very losses that statistics() compared
 * with the quantile, to the last bit. Sums run in LANES separate floats, which the compiler turns
 * into vector registers, and end in a double every BLOCK entries.
 */
#include <stdint.h>
#include <string.h>
#include <math.h>

#define LANES 32
#define BLOCK 512
#define PADDING -1e30f

enum { MEAN = 0, CVAR = 1, ENTROPIC = 2 };

/* logits = softcap * tanh(scale * (product + bias) / softcap); softcap 0 means none. */
typedef struct {
    const void *products;
    const float *bias;
    float scale;
    float softcap;
    int64_t stride;
} Side;

typedef struct {
    float top_policy, log_policy, top_ref, log_ref; /* log p = (logit - top) - log */
    float low, high, share;                         /* CVaR: the quantile's bracket, atom's share */
    float log_mgf;                                  /* entropic */
    float mass;                                     /* of the worst-case density */
} Row;

static inline float widen(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint16_t narrow(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/* exp(x) for x <= 88 to about one unit in the last place; exactly 0 below -87. */
static inline float exponential(float x)
{
    float whole = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: rounds to the nearest integer */
    int32_t bits;
    memcpy(&bits, &whole, sizeof bits);
    whole -= 12582912.0f;
    float rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    float sum = 1.9875691500e-4f;
    sum = sum * rest + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    sum = sum * rest * rest + rest + 1.0f;
    uint32_t power = (uint32_t)(bits + 127) << 23; /* the bits' integer part sits in the low end */
    float scale;
    memcpy(&scale, &power, sizeof scale);
    return x < -87.0f ? 0.0f : sum * scale;
}

static void load(const Side *side, int64_t row, int half, int64_t n, float *out)
{
    if (half) {
        const uint16_t *from = (const uint16_t *)side->products + row * side->stride;
        for (int64_t j = 0; j < n; j++) out[j] = widen(from[j]);
    } else {
        memcpy(out, (const float *)side->products + row * side->stride, n * sizeof *out);
    }
    if (side->bias)
        for (int64_t j = 0; j < n; j++) out[j] += side->bias[j];
    if (side->scale != 1.0f)
        for (int64_t j = 0; j < n; j++) out[j] *= side->scale;
    if (side->softcap > 0.0f) {
        float cap = side->softcap;
        for (int64_t j = 0; j < n; j++) {
            float x = out[j] / cap;
            float size = x < 0.0f ? -x : x;
            float e = exponential(-2.0f * (size > 40.0f ? 40.0f : size));
            float t = (1.0f - e) / (1.0f + e);
            out[j] = cap * (x < 0.0f ? -t : t);
        }
    }
}

static float maximum(const float *x, int64_t n)
{
    float lanes[LANES], most;
    for (int l = 0; l < LANES; l++) lanes[l] = x[l];
    for (int64_t j = LANES; j < n; j += LANES)
        for (int l = 0; l < LANES; l++) lanes[l] = x[j + l] > lanes[l] ? x[j + l] : lanes[l];
    most = lanes[0];
    for (int l = 1; l < LANES; l++) most = lanes[l] > most ? lanes[l] : most;
    return most;
}

static float minimum(const float *x, int64_t n)
{
    float lanes[LANES], least;
    for (int l = 0; l < LANES; l++) lanes[l] = x[l];
    for (int64_t j = LANES; j < n; j += LANES)
        for (int l = 0; l < LANES; l++) lanes[l] = x[j + l] < lanes[l] ? x[j + l] : lanes[l];
    least = lanes[0];
    for (int l = 1; l < LANES; l++) least = lanes[l] < least ? lanes[l] : least;
    return least;
}

/* Whether every entry is a number of ordinary size: masked or broken logits go the plain way. */
static int ordinary(const float *x, int64_t n)
{
    int32_t lanes[LANES] = {0}, odd = 0;
    int64_t j = 0;
    for (; j + LANES <= n; j += LANES)
        for (int l = 0; l < LANES; l++) lanes[l] |= !(x[j + l] > -1e29f && x[j + l] < 1e29f);
    for (; j < n; j++) odd |= !(x[j] > -1e29f && x[j] < 1e29f);
    for (int l = 0; l < LANES; l++) odd |= lanes[l];
    return !odd;
}

static double fold(const float *lanes)
{
    double sum = 0.0;
    for (int l = 0; l < LANES; l++) sum += lanes[l];
    return sum;
}

/* Sum over j of TERM(j), n a multiple of LANES. */
#define SUM(result, n, TERM)                                                        \
    do {                                                                            \
        double total_ = 0.0;                                                        \
        for (int64_t from_ = 0; from_ < (n); from_ += BLOCK) {                      \
            int64_t upto_ = from_ + BLOCK < (n) ? from_ + BLOCK : (n);              \
            float lanes_[LANES] = {0};                                              \
            for (int64_t at_ = from_; at_ < upto_; at_ += LANES)                    \
                for (int l_ = 0; l_ < LANES; l_++) {                                \
                    int64_t j = at_ + l_;                                           \
                    lanes_[l_] += (TERM);                                           \
                }                                                                   \
            total_ += fold(lanes_);                                                 \
        }                                                                           \
        (result) = total_;                                                          \
    } while (0)

static float logsumexp(const float *x, int64_t n, float top)
{
    double sum;
    SUM(sum, n, exponential(x[j] - top));
    return (float)log(sum);
}

/* Mass above each of three thresholds in one pass, so that the sums do not wait for each other. */
static void masses(const float *losses, const float *probs, int64_t n, const float *above,
                   double *mass)
{
    float first = above[0], second = above[1], third = above[2];
    mass[0] = mass[1] = mass[2] = 0.0;
    for (int64_t from = 0; from < n; from += BLOCK) {
        int64_t upto = from + BLOCK < n ? from + BLOCK : n;
        float one[LANES] = {0}, two[LANES] = {0}, three[LANES] = {0};
        for (int64_t j = from; j < upto; j += LANES)
            for (int l = 0; l < LANES; l++) {
                float loss = losses[j + l], prob = probs[j + l];
                one[l] += loss > first ? prob : 0.0f;
                two[l] += loss > second ? prob : 0.0f;
                three[l] += loss > third ? prob : 0.0f;
            }
        mass[0] += fold(one);
        mass[1] += fold(two);
        mass[2] += fold(three);
    }
}

/* The quantile's bracket: mass above `low` exceeds the tail, mass above `high` fits into it. */
static void bracket(const float *losses, const float *probs, int64_t n, float tail, Row *row)
{
    float low = minimum(losses, n), high = maximum(losses, n);
    double mass_low, mass_high = 0.0;
    low = nextafterf(low - 1e-30f, -INFINITY);
    SUM(mass_low, n, probs[j]);
    for (int round = 0; round < 60; round++) {
        float size = fabsf(low) > fabsf(high) ? fabsf(low) : fabsf(high);
        if (high - low <= (size > 1e-3f ? size : 1e-3f) * 2.4e-7f) break;
        float width = high - low, above[3];
        double mass[3];
        for (int k = 0; k < 3; k++) above[k] = low + 0.25f * (float)(k + 1) * width;
        masses(losses, probs, n, above, mass);
        for (int k = 0; k < 3; k++) {
            if (mass[k] <= tail) { high = above[k]; mass_high = mass[k]; break; }
            low = above[k];
            mass_low = mass[k];
        }
    }
    double atom = mass_low - mass_high > 1e-38 ? mass_low - mass_high : 1e-38;
    double share = (tail - mass_high) / atom;
    row->low = low;
    row->high = high;
    row->share = (float)(share < 0.0 ? 0.0 : share > 1.0 ? 1.0 : share);
}

/* Statistics [5, n_rows] (logp_policy, logp_ref, kl, risk, entropy) of rows first to last - 1 and
 * what gradient() needs of them. scratch holds 2 * (vocabulary + LANES) floats. Returns the number
 * of rows with logits that are not ordinary numbers, at the first of which it stops. */
int64_t statistics(const Side *policy, const Side *ref, int half, const int64_t *labels,
                   int64_t first, int64_t last, int64_t n_rows, int64_t vocabulary, int measure,
                   float parameter, float *scratch, float *stats, Row *rows)
{
    int64_t n = (vocabulary + LANES - 1) / LANES * LANES;
    float *restrict a = scratch, *restrict b = scratch + n;
    for (int64_t i = first; i < last; i++) {
        Row *row = rows + i;
        load(policy, i, half, vocabulary, a);
        load(ref, i, half, vocabulary, b);
        if (!ordinary(a, vocabulary) || !ordinary(b, vocabulary)) return 1;
        for (int64_t j = vocabulary; j < n; j++) a[j] = b[j] = PADDING;
        memset(row, 0, sizeof *row);
        float top = row->top_policy = maximum(a, n), top_ref = row->top_ref = maximum(b, n);
        float log_policy = row->log_policy = logsumexp(a, n, top);
        float log_ref = row->log_ref = logsumexp(b, n, top_ref);
        int64_t label = labels[i];
        stats[i] = (a[label] - top) - log_policy;
        stats[n_rows + i] = (b[label] - top_ref) - log_ref;
        double entropy, kl, risk, mass = 1.0;
        SUM(entropy, n, exponential((a[j] - top) - log_policy) * ((a[j] - top) - log_policy));
        /* From here on a holds the losses and b the reference's log probabilities. */
        for (int64_t j = 0; j < n; j++) {
            float log_p = (b[j] - top_ref) - log_ref;
            a[j] = j < vocabulary ? log_p - ((a[j] - top) - log_policy) : 0.0f;
            b[j] = log_p;
        }
        SUM(kl, n, exponential(b[j]) * a[j]);
        risk = kl;
        if (measure == ENTROPIC) {
            /* Its own pass: a probability that underflows still counts for what it weighs. */
            for (int64_t j = 0; j < n; j++) a[j] = b[j] + parameter * a[j];
            float most = maximum(a, n);
            row->log_mgf = most + logsumexp(a, n, most);
            risk = (double)row->log_mgf / parameter;
            SUM(mass, n, exponential(a[j] - row->log_mgf));
        } else {
            for (int64_t j = 0; j < n; j++) b[j] = exponential(b[j]);
            SUM(mass, n, b[j]);
        }
        if (measure == CVAR && parameter > 0.0f) {
            float tail = 1.0f - parameter;
            bracket(a, b, n, tail, row);
            float low = row->low, high = row->high, share = row->share;
            SUM(risk, n, (a[j] > high ? b[j] : a[j] > low ? share * b[j] : 0.0f) * a[j]);
            SUM(mass, n, (a[j] > high ? b[j] : a[j] > low ? share * b[j] : 0.0f));
            risk /= tail;
            mass /= tail;
        }
        stats[2 * n_rows + i] = (float)kl;
        stats[3 * n_rows + i] = (float)risk;
        stats[4 * n_rows + i] = (float)-entropy;
        row->mass = (float)mass;
    }
    return 0;
}

/* The derivative by the policy's products, into out, which may be they: with `policy` and `q` the row's densities,
 *   by_logp * (onehot - policy) + by_risk * (mass * policy - q), times the head's slope. */
void gradient(const Side *policy, const Side *ref, int half, const int64_t *labels, int64_t first,
              int64_t last, int64_t vocabulary, int measure, float parameter, float *scratch,
              const Row *rows, const float *by_logp, const float *by_risk, void *out)
{
    int64_t n = (vocabulary + LANES - 1) / LANES * LANES;
    float *restrict a = scratch, *restrict b = scratch + n;
    float tail = 1.0f - parameter;
    for (int64_t i = first; i < last; i++) {
        const Row *row = rows + i;
        load(policy, i, half, vocabulary, a);
        load(ref, i, half, vocabulary, b);
        for (int64_t j = vocabulary; j < n; j++) a[j] = b[j] = PADDING;
        float top = row->top_policy, top_ref = row->top_ref;
        float log_policy = row->log_policy, log_ref = row->log_ref;
        float weight = by_risk[i] * row->mass - by_logp[i];
        float low = row->low, high = row->high, share = row->share, log_mgf = row->log_mgf;
        float scaled = by_risk[i] / (measure == CVAR && parameter > 0.0f ? tail : 1.0f);
        float cap = policy->softcap, scale = policy->scale;
        if (measure == CVAR && parameter > 0.0f)
            for (int64_t j = 0; j < n; j++) {
                float log_q = (b[j] - top_ref) - log_ref, log_p = (a[j] - top) - log_policy;
                float loss = log_q - log_p;
                float part = loss > high ? 1.0f : loss > low ? share : 0.0f;
                b[j] = weight * exponential(log_p) - scaled * part * exponential(log_q);
            }
        else if (measure == ENTROPIC)
            for (int64_t j = 0; j < n; j++) {
                float log_q = (b[j] - top_ref) - log_ref, log_p = (a[j] - top) - log_policy;
                float tilted = (log_q + parameter * (log_q - log_p)) - log_mgf;
                b[j] = weight * exponential(log_p) - scaled * exponential(tilted);
            }
        else
            for (int64_t j = 0; j < n; j++) {
                float log_q = (b[j] - top_ref) - log_ref, log_p = (a[j] - top) - log_policy;
                b[j] = weight * exponential(log_p) - scaled * exponential(log_q);
            }
        b[labels[i]] += by_logp[i];
        if (cap > 0.0f)
            for (int64_t j = 0; j < vocabulary; j++) b[j] *= scale * (1.0f - (a[j] / cap) * (a[j] / cap));
        else if (scale != 1.0f)
            for (int64_t j = 0; j < vocabulary; j++) b[j] *= scale;
        if (half) {
            uint16_t *to = (uint16_t *)out + i * policy->stride;
            for (int64_t j = 0; j < vocabulary; j++) to[j] = narrow(b[j]);
        } else {
            memcpy((float *)out + i * policy->stride, b, vocabulary * sizeof *b);
        }
    }
}
