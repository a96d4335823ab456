"""The descriptor pool of Penstock's messages, apart from protobuf's global one."""

from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
