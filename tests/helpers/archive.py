"""A module in the form of OpenAI's TorchScript files."""

import torch


class Archive(torch.nn.Module):
    """Tensors under dotted names in nested modules, as in OpenAI's TorchScript files."""

    def __init__(self, tensors):
        super().__init__()
        for name, tensor in tensors.items():
            *parents, own = name.split(".")
            module = self
            for parent in parents:
                if parent not in dict(module.named_children()):
                    module.add_module(parent, torch.nn.Module())
                module = module.get_submodule(parent)
            module.register_buffer(own, tensor)

    def forward(self, x):
        return self.logit_scale * x
