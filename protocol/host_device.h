// What host and device compile alike.
#pragma once

#ifdef __CUDACC__
#define ULTRAEP_HOST_DEVICE __host__ __device__
#else
#define ULTRAEP_HOST_DEVICE
#endif
