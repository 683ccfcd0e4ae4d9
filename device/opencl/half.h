// A double as IEEE half precision, rounded to nearest even: what an OpenCL kernel with a half argument takes.
#ifndef TVMFBNET_DEVICE_OPENCL_HALF_H_
#define TVMFBNET_DEVICE_OPENCL_HALF_H_

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace tvmfbnet {

inline uint16_t to_half(double value) {
  uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  if (std::isnan(value)) return sign | 0x7e00;
  double size = std::fabs(value);
  if (size == 0) return sign;
  if (size >= 65520.0) return sign | 0x7c00;  // above the middle between the largest half and the next power of two
  int exponent = 0;
  std::frexp(size, &exponent);                  // size = f * 2^exponent, f in [0.5, 1)
  int step = std::max(exponent - 11, -24);      // a half has 11 significant bits; the smallest is 2^-24
  auto units = static_cast<uint32_t>(std::nearbyint(std::ldexp(size, -step)));
  if (step == -24) return sign | static_cast<uint16_t>(units);  // subnormal, or the smallest normal numbers
  // Adding, not or-ing: a carry of the rounding goes into the exponent, as it should.
  return sign | static_cast<uint16_t>(((static_cast<uint32_t>(step + 24) << 10) + units));
}

}  // namespace tvmfbnet

#endif  // TVMFBNET_DEVICE_OPENCL_HALF_H_
