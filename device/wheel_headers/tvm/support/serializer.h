// Stands in for a header that TVM's wheels lack; see io.h.
#include <tvm/support/io.h>
