// The CPU kernels for any processor.
#include "cpu/headers.h"
#include "cpu/neighborhood/boxes.h"
#include "cpu/neighborhood/kernels.h"

#define VISIONATTN_LANES 4
#define VISIONATTN_F16C 0
#define VISIONATTN_NAMESPACE baseline
#define VISIONATTN_NAME "default"
#define VISIONATTN_TABLE kBaselineKernels
#include "cpu/neighborhood/instantiate.h"
